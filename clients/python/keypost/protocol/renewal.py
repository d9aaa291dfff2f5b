"""The source document's key renewal: eight steps, eight functions, in its order (docs/spec.md, "Renewal").

The client does steps 1 to 4 and 8, the CA steps 5 to 7. All are pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import EndorsementError, SignatureInvalidError
from keypost.protocol.key_info import GOOD, SUPERSEDED, Key
from keypost.protocol.key_requests import DeviceKeyPair, KeyRequest, sign_possession, verify_endorsement
from keypost.protocol.rsa import public_key_der

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from keypost.protocol.identifiers import Address
    from keypost.protocol.realm_trust import Constants
    from keypost.protocol.suites import Suite

    KeyGenerator = Callable[[Suite], RSAPrivateKey]


def step_1_generate_key_pair(address: Address, suite: Suite, generate: KeyGenerator) -> DeviceKeyPair:
    """Return a new key pair for the device (slow: not on an event loop)."""
    private_key = generate(suite)
    return DeviceKeyPair(address, suite, private_key, public_key_der(private_key))


def step_2_hash_new_public_key(old: DeviceKeyPair, request: bytes, new_public_key_der: bytes) -> bytes:
    """Return the hash that the old key is to sign, in the form of the old key's suite.

    The source document's suite hashes the new public key (SHA-1, 20 bytes); the strong one the whole request, which
    contains it (SHA-256, 32 bytes).
    """
    return old.suite.endorsement_hash(request, new_public_key_der)


def step_3_sign_hash(old: DeviceKeyPair, endorsement_hash: bytes) -> bytes:
    """Return the endorsement: the hash signed with the old private key."""
    return old.suite.sign_endorsement(old.private_key, endorsement_hash)


def step_4_upload(request: pb.KeyRequest, new: DeviceKeyPair, old: DeviceKeyPair) -> pb.SignedKeyRequest:
    """Return the upload: the new public key, its expiration date, and both signatures (by way of steps 2 and 3)."""
    signed = sign_possession(request, new)
    endorsement_hash = step_2_hash_new_public_key(old, signed.key_request, new.public_key_der)
    signed.endorsement = step_3_sign_hash(old, endorsement_hash)
    return signed


def step_5_hash_uploaded_public_key(old: KeyRequest, new: KeyRequest) -> bytes:
    """Return the hash of the uploaded public key, as the CA computes it for the old key on record."""
    return old.suite.endorsement_hash(new.signed.key_request, new.public_key_der)


def step_6_verify_signature(old: KeyRequest, new: KeyRequest, endorsement_hash: bytes) -> None:
    """Verify with the old public key that the client is the one on record.

    Raises:
        EndorsementError: it is not, the old key may not vouch for the new one, or this is no renewal.
    """
    if new.kind != pb.KEY_REQUEST_KIND_RENEW:
        raise EndorsementError("a key is replaced by a renewal alone")
    try:
        old.suite.verify_endorsement(old.public_key, endorsement_hash, new.signed.endorsement)
    except SignatureInvalidError as error:
        raise EndorsementError("the renewal is not signed by the key that it replaces") from error
    verify_endorsement(new, old)


def step_7_update_key_info(keys: Sequence[Key], new: KeyRequest, now: int) -> tuple[Key, ...]:
    """Return the user's keys after the renewal: the old key superseded since ``now``, the new one good."""
    updated = [
        replace(key, state=SUPERSEDED, state_time=now) if key.fingerprint == new.parent_fingerprint else key
        for key in keys
    ]
    return (*updated, Key(new, GOOD, now, now))


def step_8_old_key_needed_until(superseded_time: int, constants: Constants) -> int:
    """Return until when (Unix milliseconds) the old key pair is kept at least.

    Until then somebody may still seal to it, relying on the record before the renewal. After it, the old key goes at
    the first ``queue_empty`` on a stream opened later, once nothing that waits locally is sealed to it.
    """
    return superseded_time + constants.settle
