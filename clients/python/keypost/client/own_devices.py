"""Whether a sender was shown the devices that this user has: a directory may show each side another record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.protocol.extension import DeviceKey
from keypost.protocol.realm_trust import CLOCK_SKEW

if TYPE_CHECKING:
    from keypost.protocol.extension import Extension
    from keypost.protocol.key_info import KeyRecord


def is_sealed_to_own_devices(own: KeyRecord, extension: Extension) -> bool:
    """Return whether the devices that a verified statement names are those of the own record.

    Nothing may be named that had not entered by the revision that the sender relied upon, and nothing left out that
    was good then and still is.

    Args:
        own: The own user's record, at the revision that the statement relies upon or later.
        extension: The sender's statement.
    """
    named = set(extension.recipient_devices)
    return _must_be_named(own, extension) <= named <= _may_be_named(own, extension)


def _must_be_named(own: KeyRecord, extension: Extension) -> set[DeviceKey]:
    # By the sender's clock, which may be ahead: what ends within the skew may be left out.
    good = own.good_keys(extension.sign_time + CLOCK_SKEW)
    entered = (key for key in good if key.request.revision <= extension.recipient_revision)
    return {DeviceKey.of(key) for key in entered if key.address != extension.signer.address}


def _may_be_named(own: KeyRecord, extension: Extension) -> set[DeviceKey]:
    if own.revision == extension.recipient_revision:
        return {DeviceKey.of(key) for key in own.unended_keys}
    # What has ended since then was good when the sender looked, or may have been.
    entered = (request for request in own.requests if request.revision <= extension.recipient_revision)
    return {DeviceKey(request.address, request.fingerprint) for request in entered}
