from collections.abc import Callable
from typing import Any

import pytest

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import (
    EndorsementError,
    KeyRefusedError,
    MalformedStatementError,
    PossessionError,
    SuiteUnknownError,
)
from keypost.protocol.key_requests import DeviceKeyPair, read_key_request, sign_possession, verify_endorsement
from keypost.protocol.suites import STRONG, SUITES, WEAK, Suite
from support.realm import SimulatedRealm

ENROLL, APPROVE, RENEW = pb.KEY_REQUEST_KIND_ENROLL, pb.KEY_REQUEST_KIND_APPROVE, pb.KEY_REQUEST_KIND_RENEW


def new_pair(realm: SimulatedRealm, suite: Suite = STRONG, username: str = "alice") -> DeviceKeyPair:
    return realm.new_pair(realm.new_address(username), suite)


def signed_with(simulated: SimulatedRealm, pair: DeviceKeyPair, **changes: Any) -> pb.SignedKeyRequest:
    request = simulated.request(pair, ENROLL)
    for name, value in changes.items():
        setattr(request, name, value)
    return sign_possession(request, pair)


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_a_request_proves_possession(realm: SimulatedRealm, suite: Suite) -> None:
    pair = new_pair(realm, suite)
    request = read_key_request(realm.signed_request(pair, ENROLL))
    assert (request.address, request.fingerprint, request.suite) == (pair.address, pair.fingerprint, suite)
    assert request.is_root


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_a_request_without_possession_is_refused(realm: SimulatedRealm, suite: Suite) -> None:
    own, thief = new_pair(realm, suite), new_pair(realm, suite)
    stolen = sign_possession(realm.request(own, ENROLL), thief)
    for possession in (b"", stolen.possession):
        with pytest.raises(PossessionError):
            read_key_request(pb.SignedKeyRequest(key_request=stolen.key_request, possession=possession))


def test_a_request_altered_after_signing_is_refused(realm: SimulatedRealm) -> None:
    pair = new_pair(realm)
    signed = realm.signed_request(pair, ENROLL)
    signed.key_request = realm.request(pair, ENROLL, username="mallory").SerializeToString()
    with pytest.raises(PossessionError):
        read_key_request(signed)


@pytest.mark.parametrize(
    "changes",
    [
        {"realm": "Example"},
        {"realm": ""},
        {"username": "Alice"},
        {"device_id": "x"},
        {"epoch": 0},
        {"revision": 0},
        {"expire_time": 0},
        {"expire_time": -1},
        {"ca_nonce": bytes(129)},
        {"kind": 0},
        {"kind": 77},
        {"parent_fingerprint": bytes(32)},
        {"kind": RENEW},
        {"kind": RENEW, "parent_fingerprint": bytes(31)},
    ],
    ids=str,
)
def test_a_request_with_an_impossible_field_is_refused(realm: SimulatedRealm, changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedStatementError):
        read_key_request(signed_with(realm, new_pair(realm), **changes))


def test_a_root_with_an_endorsement_is_refused(realm: SimulatedRealm) -> None:
    signed = realm.signed_request(new_pair(realm), ENROLL)
    signed.endorsement = b"somebody"
    with pytest.raises(MalformedStatementError):
        read_key_request(signed)


def test_a_request_of_another_suite_than_its_key_is_refused(realm: SimulatedRealm) -> None:
    pair = new_pair(realm)
    with pytest.raises(KeyRefusedError):
        read_key_request(realm.signed_request(pair, ENROLL, suite=pb.SUITE_RSA1024_AES128))
    for unknown in (0, 9):
        with pytest.raises(SuiteUnknownError):
            read_key_request(realm.signed_request(pair, ENROLL, suite=unknown))
    with pytest.raises(MalformedStatementError):
        read_key_request(pb.SignedKeyRequest(key_request=b"\xff"))


def child_and_parent(
    simulated: SimulatedRealm, parent: DeviceKeyPair, child: DeviceKeyPair, kind: int, **changes: Any
) -> tuple[Any, Any]:
    signed_parent = read_key_request(simulated.signed_request(parent, ENROLL))
    changes = {"revision": 2, **changes}
    return read_key_request(simulated.signed_request(child, kind, parent, **changes)), signed_parent  # type: ignore[arg-type]


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_a_parent_vouches_for_its_renewal(realm: SimulatedRealm, suite: Suite) -> None:
    old = new_pair(realm, suite)
    verify_endorsement(*child_and_parent(realm, old, realm.new_pair(old.address, suite), RENEW))


def test_a_weak_key_may_be_renewed_by_a_strong_one_and_never_the_other_way(realm: SimulatedRealm) -> None:
    weak, strong = new_pair(realm, WEAK), new_pair(realm)
    verify_endorsement(*child_and_parent(realm, weak, realm.new_pair(weak.address, STRONG), RENEW))
    with pytest.raises(EndorsementError, match="lowers"):
        verify_endorsement(*child_and_parent(realm, strong, realm.new_pair(strong.address, WEAK), RENEW))


def test_a_strong_key_approves_another_device(realm: SimulatedRealm) -> None:
    verify_endorsement(*child_and_parent(realm, new_pair(realm), new_pair(realm), APPROVE))


Broken = Callable[[SimulatedRealm], tuple[Any, Any]]


@pytest.mark.parametrize(
    "broken",
    [
        lambda realm: child_and_parent(realm, new_pair(realm, WEAK), new_pair(realm), APPROVE),
        lambda realm: child_and_parent(realm, new_pair(realm), new_pair(realm), RENEW),
        lambda realm: child_and_parent(realm, old := new_pair(realm), realm.new_pair(old.address), APPROVE),
        lambda realm: child_and_parent(realm, new_pair(realm), new_pair(realm, username="bob"), APPROVE),
        lambda realm: child_and_parent(realm, new_pair(realm), new_pair(realm), APPROVE, realm="other.org"),
        lambda realm: child_and_parent(realm, new_pair(realm), new_pair(realm), APPROVE, epoch=2),
        lambda realm: child_and_parent(realm, new_pair(realm), new_pair(realm), APPROVE, revision=1),
        lambda realm: child_and_parent(realm, new_pair(realm), new_pair(realm), APPROVE, parent_fingerprint=bytes(32)),
    ],
    ids=[
        "a weak key approves",
        "renewal on another device",
        "approval on the same device",
        "another user",
        "another realm",
        "another epoch",
        "before its parent",
        "another parent",
    ],
)
def test_what_a_key_may_not_vouch_for(realm: SimulatedRealm, broken: Broken) -> None:
    child, parent = broken(realm)
    with pytest.raises(EndorsementError):
        verify_endorsement(child, parent)


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_an_endorsement_by_the_wrong_key_is_refused(realm: SimulatedRealm, suite: Suite) -> None:
    old = new_pair(realm, suite)
    child, parent = child_and_parent(realm, old, realm.new_pair(old.address, suite), RENEW)
    thief = new_pair(realm, suite)
    digest = suite.endorsement_hash(child.signed.key_request, child.public_key_der)
    for endorsement in (suite.sign_endorsement(thief.private_key, digest), b"", child.signed.possession):
        child.signed.endorsement = endorsement
        with pytest.raises(EndorsementError):
            verify_endorsement(child, parent)


def test_a_key_pair_does_not_show_itself(realm: SimulatedRealm) -> None:
    pair = new_pair(realm)
    assert "private" not in repr(pair)
    assert str(pair.private_key.private_numbers().d) not in repr(pair)
