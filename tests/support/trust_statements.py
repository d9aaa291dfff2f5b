"""Trust statements of which a test says which keys they list, by the seeds of these."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.clock import DAY
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.realm_trust import sign_realm_trust
from support.clock import START
from support.realm import SimulatedRealm, seeded_signer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT, RECORD = 1, 2
"""The seeds of the keys that a simulated realm begins with."""
FIRST_ENTRIES = 3
"""How many entries the audit log of a CA begins with: the first statement, its root key, its record key."""


def trust_statement(
    sequence: int = 1,
    roots: Sequence[int] = (ROOT,),
    record_keys: Mapping[int, int] | None = None,
    signed_by: int = ROOT,
) -> pb.SignedRealmTrust:
    """Return a statement.

    Args:
        sequence: Its sequence.
        roots: The root keys that it lists.
        record_keys: The record keys that it lists, each with the days for which it is in force.
        signed_by: The root key that signs it.
    """
    statement = pb.RealmTrust.FromString(SimulatedRealm().signed_trust(sequence).realm_trust)
    del statement.root_keys[:], statement.record_keys[:]
    statement.root_keys.extend(pb.RootKey(public_key_der=public_key_of(seed)) for seed in roots)
    for seed, days in (record_keys or {RECORD: 400}).items():
        statement.record_keys.add(
            public_key_der=public_key_of(seed), from_time=START - DAY, until_time=START + days * DAY
        )
    return sign_realm_trust(statement, seeded_signer(signed_by))


def public_key_of(seed: int) -> bytes:
    """Return the public key of a seed (SubjectPublicKeyInfo, DER)."""
    return seeded_signer(seed).public_key_der
