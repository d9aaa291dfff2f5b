from dataclasses import replace
from typing import Any

import pytest

from keypost.clock import DAY, HOUR, MINUTE
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.errors import (
    KeyRefusedError,
    MalformedStatementError,
    SignatureInvalidError,
    TrustRefusedError,
    TrustRegressedError,
    UnknownRecordKeyError,
)
from keypost.protocol.realm_trust import Constants, RealmTrust, read_realm_trust, sign_realm_trust
from support.clock import ManualClock
from support.realm import REALM, SimulatedRealm, seeded_signer


def read(realm: SimulatedRealm, signed: pb.SignedRealmTrust, previous: RealmTrust | None = None) -> RealmTrust:
    return read_realm_trust(
        signed, realm=REALM, root_keys=[realm.root.public_key_der], now=realm.clock(), previous=previous
    )


def test_the_default_constants() -> None:
    constants = Constants()
    assert constants.settle == HOUR + 5 * MINUTE
    assert constants.age_limit == 7 * DAY + 30 * DAY + constants.settle + DAY
    assert Constants.from_message(constants.to_message()) == constants


def test_a_statement_of_the_root_is_trusted(realm: SimulatedRealm) -> None:
    trust = read(realm, realm.signed_trust())
    assert (trust.realm, trust.sequence, trust.constants) == (REALM, 1, realm.constants)
    assert trust.record_key(realm.record_signer.fingerprint, realm.clock()).public_key_der


def test_a_statement_of_another_root_is_not(realm: SimulatedRealm) -> None:
    stranger = SimulatedRealm(realm.clock, root=seeded_signer(9))
    with pytest.raises(TrustRefusedError):
        read(realm, stranger.signed_trust())
    forged = stranger.signed_trust()
    forged.root_key_fingerprint = realm.root.fingerprint
    with pytest.raises(SignatureInvalidError):
        read(realm, forged)


def test_a_statement_is_altered(realm: SimulatedRealm) -> None:
    signed = realm.signed_trust()
    signed.realm_trust += b"\x10\x02"
    with pytest.raises(SignatureInvalidError):
        read(realm, signed)


def test_a_statement_of_another_realm_is_refused(realm: SimulatedRealm) -> None:
    with pytest.raises(TrustRefusedError, match="evil"):
        read(realm, realm.signed_trust(realm="evil.org"))


def test_a_statement_expires(realm: SimulatedRealm, clock: ManualClock) -> None:
    signed = realm.signed_trust(until_time=clock() + 10)
    read(realm, signed)
    clock.advance(10)
    with pytest.raises(TrustRefusedError, match="expired"):
        read(realm, signed)


def test_the_sequence_never_goes_back(realm: SimulatedRealm) -> None:
    second = read(realm, realm.signed_trust(2), read(realm, realm.signed_trust(1)))
    assert read(realm, realm.signed_trust(2), second).sequence == 2
    for signed in (realm.signed_trust(1), realm.signed_trust(2, until_time=realm.clock() + DAY)):
        with pytest.raises(TrustRegressedError):
            read(realm, signed, second)


def test_the_next_root_is_the_one_that_the_last_statement_named(realm: SimulatedRealm) -> None:
    new = seeded_signer(5)
    first = read(realm, realm.signed_trust(1))
    statement = pb.RealmTrust.FromString(realm.signed_trust(2).realm_trust)
    statement.root_keys[0].public_key_der = new.public_key_der
    second = read(realm, sign_realm_trust(statement, realm.root), first)
    statement.sequence = 3
    assert read(realm, sign_realm_trust(statement, new), second).sequence == 3
    with pytest.raises(TrustRefusedError):
        read(realm, sign_realm_trust(statement, realm.root), second)


def test_a_record_key_has_its_time(realm: SimulatedRealm, clock: ManualClock) -> None:
    trust = read(realm, realm.signed_trust())
    key = trust.record_keys[0]
    for now in (key.from_time - 1, key.until_time):
        with pytest.raises(UnknownRecordKeyError):
            trust.record_key(key.fingerprint, now)
    with pytest.raises(UnknownRecordKeyError):
        trust.record_key(bytes(32), clock())


@pytest.mark.parametrize("name", [name for name in Constants.__dataclass_fields__ if name != "allowed_suites"])
def test_constants_are_positive(realm: SimulatedRealm, name: str) -> None:
    changes: dict[str, Any] = {name: 0}
    realm.constants = replace(realm.constants, **changes)
    with pytest.raises(MalformedStatementError, match=name):
        read(realm, realm.signed_trust())


def test_a_statement_that_lists_nothing_is_malformed(realm: SimulatedRealm) -> None:
    statement = pb.RealmTrust.FromString(realm.signed_trust().realm_trust)
    for name in ("root_keys", "record_keys"):
        emptied = pb.RealmTrust()
        emptied.CopyFrom(statement)
        emptied.ClearField(name)
        with pytest.raises(MalformedStatementError):
            read(realm, sign_realm_trust(emptied, realm.root))
    realm.constants = replace(realm.constants, allowed_suites=())
    with pytest.raises(MalformedStatementError, match="suite"):
        read(realm, realm.signed_trust())


def test_root_keys_are_ed25519(realm: SimulatedRealm) -> None:
    pair = realm.enroll("alice")
    signed = realm.signed_trust()
    for bad in (pair.public_key_der, b"no key"):
        with pytest.raises((KeyRefusedError, TrustRefusedError)):
            read_realm_trust(signed, realm=REALM, root_keys=[bad], now=realm.clock())
        signed.root_key_fingerprint = pair.fingerprint


def test_a_signer_does_not_show_its_key() -> None:
    assert repr(seeded_signer(1)) == f"Ed25519Signer({seeded_signer(1).fingerprint.hex()[:8]})"


def test_a_statement_that_is_held_is_read_again_though_its_root_handed_over(realm: SimulatedRealm) -> None:
    new = seeded_signer(5)
    first = read(realm, realm.signed_trust(1))
    statement = pb.RealmTrust.FromString(realm.signed_trust(2).realm_trust)
    statement.root_keys[0].public_key_der = new.public_key_der
    signed = sign_realm_trust(statement, realm.root)
    second = read(realm, signed, first)
    assert read(realm, signed, second) is second
