"""What takes the place of a defence that does more than defend: the same without the defence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.encoding import fingerprint
from keypost.protocol.realm_trust import RealmTrust, RecordKey
from support.lies import STRANGER
from support.realm import seeded_signer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.protocol.key_requests import KeyRequest
    from keypost.protocol.suites import Suite

ROOT = seeded_signer(1).public_key_der
"""The root key of simulated realms."""


def list_strangers_too(trust: RealmTrust, record_key_fingerprint: bytes, now: int) -> RecordKey:
    keys = (*trust.record_keys, RecordKey(STRANGER.public_key_der, now, now + 1))
    return next(key for key in keys if key.fingerprint == record_key_fingerprint)


def believe_whom_the_statement_names(signed: pb.SignedRealmTrust, _trusted: Sequence[bytes]) -> bytes:
    statement = pb.RealmTrust.FromString(signed.realm_trust)
    keys = (ROOT, *(key.public_key_der for key in statement.root_keys))
    return next(key for key in keys if fingerprint(key) == signed.root_key_fingerprint)


def take_it_for_a_number(value: bytes) -> int:
    return int(value)


def count_weak_keys_too(parent: KeyRequest, _minimum: Suite) -> bytes:
    return parent.fingerprint


def assert_nothing() -> None:
    """Fail by an assertion, as no stand-in may."""
    raise AssertionError


def bound_to_the_place_alone(_digest: bytes, index: int) -> bytes:
    return index.to_bytes(8, "big")
