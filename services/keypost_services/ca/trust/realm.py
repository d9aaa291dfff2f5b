"""The realm as the CA serves it: its trust statement, and which record key signs now (docs/spec.md, "Realm trust")."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from keypost.protocol.encoding import fingerprint
from keypost.protocol.errors import TrustRegressedError, UnknownRecordKeyError
from keypost.protocol.realm_trust import CLOCK_SKEW, ServedTrust, later_than

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keypost.keys.v1 import realm_trust_pb2 as pb
    from keypost.protocol.realm_trust import RealmTrust, RecordKey
    from keypost_services.ca.trust.signing import RecordSigner


@dataclass(frozen=True)
class Realm:
    """What the realm's files say, verified.

    Attributes:
        trust: The current trust statement.
        earlier: The statements before it by which root keys handed over, oldest first.
        first_root_keys: The root keys that the realm began with (SubjectPublicKeyInfo, DER).
        signers: The record keys that this CA can sign with; the statement need not list them all.
    """

    trust: RealmTrust
    earlier: tuple[pb.SignedRealmTrust, ...] = ()
    first_root_keys: tuple[bytes, ...] = ()
    signers: tuple[RecordSigner, ...] = ()

    def active(self, now: int) -> tuple[RecordKey, RecordSigner]:
        """Return the record key that signs now, as the statement lists it, and who signs with it.

        Raises:
            TrustRefusedError: the statement has expired.
            UnknownRecordKeyError: it lists no key of this CA for now.
        """
        self.trust.check_current(now)
        key = active_key(self.own_keys, now)
        return key, self._signers[key.fingerprint]

    @cached_property
    def own_keys(self) -> tuple[RecordKey, ...]:
        """The record keys that the statement lists and this CA can sign with."""
        return tuple(key for key in self.trust.record_keys if key.fingerprint in self._signers)

    @cached_property
    def _signers(self) -> dict[bytes, RecordSigner]:
        return {fingerprint(signer.public_key_der): signer for signer in self.signers}


def active_key(record_keys: Iterable[RecordKey], now: int) -> RecordKey:
    """Return the key to sign with: the one of those in force that came into force last.

    A key that has just come into force waits for the clock skew if another can sign meanwhile: to somebody whose clock
    is behind it is not in force yet.

    Raises:
        UnknownRecordKeyError: none is in force.
    """
    in_force = [key for key in record_keys if key.from_time <= now < key.until_time]
    settled = [key for key in in_force if key.from_time + CLOCK_SKEW <= now]
    if not in_force:
        raise UnknownRecordKeyError("the realm lists no record key of this CA that is in force now")
    return max(settled or in_force, key=lambda key: (key.from_time, key.until_time, key.fingerprint))


def check_follows(held: RealmTrust, new: RealmTrust) -> None:
    """Check that a statement may take the place of the one that is served.

    Raises:
        TrustRegressedError: it is older, or another one of the same sequence.
    """
    same = new.signed.realm_trust == held.signed.realm_trust
    if not same and new.sequence <= held.sequence:
        raise TrustRegressedError(f"trust statement {new.sequence} comes after {held.sequence} was served")


class ServedRealm:
    """The realm that is served now; a newer one takes its place while calls go on."""

    def __init__(self, realm: Realm) -> None:
        self._realm = realm

    @property
    def trust(self) -> RealmTrust:
        """The current trust statement."""
        return self._realm.trust

    @property
    def name(self) -> str:
        """The name of the realm: it never changes."""
        return self._realm.trust.realm

    def served(self, after_sequence: int) -> ServedTrust:
        """Return what whoever holds the statement of this sequence (0: none) needs to believe the current one."""
        return later_than(ServedTrust(self._realm.trust.signed, self._realm.earlier), after_sequence)

    @property
    def signs_until(self) -> int:
        """When the last record key that the realm lists and this CA has ends, Unix milliseconds."""
        return max((key.until_time for key in self._realm.own_keys), default=0)

    def active(self, now: int) -> tuple[RecordKey, RecordSigner]:
        """Return the record key that signs now; raises as ``Realm.active``."""
        return self._realm.active(now)

    def missing(self, now: int) -> list[RecordKey]:
        """Return the record keys that the realm lists, for now or later, and this CA does not have."""
        own = self._realm.own_keys
        return [key for key in self.trust.record_keys if key not in own and now < key.until_time]

    def replace(self, realm: Realm) -> None:
        """Serve a newer statement, or other keys, from now on.

        Raises:
            TrustRegressedError: it is older than the one that is served.
        """
        check_follows(self._realm.trust, realm.trust)
        self._realm = realm
