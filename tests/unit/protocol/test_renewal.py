"""The eight steps, in both suites."""

import hashlib

import pytest

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol import renewal as r
from keypost.protocol.errors import EndorsementError
from keypost.protocol.key_info import GOOD, SUPERSEDED
from keypost.protocol.key_requests import DeviceKeyPair, KeyRequest, read_key_request
from keypost.protocol.suites import STRONG, SUITES, WEAK, Suite
from support.clock import ManualClock
from support.realm import SimulatedRealm

both = pytest.mark.parametrize("suite", SUITES, ids=str)


def uploaded(
    realm: SimulatedRealm, old: DeviceKeyPair, suite: Suite, signer: DeviceKeyPair | None = None
) -> KeyRequest:
    new = r.step_1_generate_key_pair(old.address, suite, realm.new_private_key)
    request = realm.request(new, pb.KEY_REQUEST_KIND_RENEW, old.fingerprint)
    return read_key_request(r.step_4_upload(request, new, signer or old))


@both
def test_the_eight_steps(realm: SimulatedRealm, clock: ManualClock, suite: Suite) -> None:
    old = realm.enroll("alice", suite)
    new = uploaded(realm, old, suite)
    on_record = realm.key_record("alice").keys
    digest = r.step_5_hash_uploaded_public_key(on_record[0].request, new)
    r.step_6_verify_signature(on_record[0].request, new, digest)
    updated = r.step_7_update_key_info(on_record, new, clock())
    assert [(key.fingerprint, key.state) for key in updated] == [
        (old.fingerprint, SUPERSEDED),
        (new.fingerprint, GOOD),
    ]
    assert r.step_8_old_key_needed_until(clock(), realm.constants) == clock() + realm.constants.settle


def test_the_source_documents_hash_is_sha1_of_the_new_public_key(realm: SimulatedRealm) -> None:
    old = realm.enroll("alice", WEAK)
    digest = r.step_2_hash_new_public_key(old, b"any request", b"new public key")
    assert digest == hashlib.sha1(b"new public key", usedforsecurity=False).digest()
    new = uploaded(realm, old, WEAK)
    on_record = realm.key_record("alice").keys[0].request
    assert (
        r.step_5_hash_uploaded_public_key(on_record, new)
        == hashlib.sha1(new.public_key_der, usedforsecurity=False).digest()
    )


@both
def test_a_renewal_by_the_wrong_key_is_refused(realm: SimulatedRealm, suite: Suite) -> None:
    old, thief = realm.enroll("alice", suite), realm.enroll("mallory", suite)
    new = uploaded(realm, old, suite, signer=thief)
    on_record = realm.key_record("alice").keys[0].request
    with pytest.raises(EndorsementError):
        r.step_6_verify_signature(on_record, new, r.step_5_hash_uploaded_public_key(on_record, new))


def test_a_renewal_of_another_users_device_is_refused(realm: SimulatedRealm) -> None:
    old = realm.enroll("alice")
    realm.enroll("bob")
    new = uploaded(realm, old, STRONG)
    other = realm.key_record("bob").keys[0].request
    with pytest.raises(EndorsementError):
        r.step_6_verify_signature(other, new, r.step_5_hash_uploaded_public_key(other, new))


def test_a_renewal_never_lowers_the_suite(realm: SimulatedRealm) -> None:
    old = realm.enroll("alice")
    new = uploaded(realm, old, WEAK)
    on_record = realm.key_record("alice").keys[0].request
    with pytest.raises(EndorsementError, match="lowers"):
        r.step_6_verify_signature(on_record, new, r.step_5_hash_uploaded_public_key(on_record, new))


def test_a_key_is_replaced_by_a_renewal_alone(realm: SimulatedRealm) -> None:
    old = realm.enroll("alice")
    other = realm.new_pair(realm.new_address("alice"))
    approval = read_key_request(realm.signed_request(other, pb.KEY_REQUEST_KIND_APPROVE, old))
    on_record = realm.key_record("alice").keys[0].request
    with pytest.raises(EndorsementError, match="renewal alone"):
        r.step_6_verify_signature(on_record, approval, r.step_5_hash_uploaded_public_key(on_record, approval))
