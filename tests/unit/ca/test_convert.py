"""All bad input is refused with the name of its field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keypost.ca.v1 import ca_service_pb2 as ca_pb
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.key_requests import DeviceKeyPair, sign_possession
from keypost.protocol.suites import STRONG, WEAK
from keypost_services.ca import convert
from keypost_services.ca.sign_in.port import Kind
from keypost_services.runtime.errors import ServiceError
from keypost_services.runtime.requests import read_number, read_usernames
from support.realm import REALM, SimulatedRealm

if TYPE_CHECKING:
    from collections.abc import Callable

ENROLL, RENEW = pb.KEY_REQUEST_KIND_ENROLL, pb.KEY_REQUEST_KIND_RENEW


@pytest.fixture
def realm() -> SimulatedRealm:
    return SimulatedRealm()


@pytest.fixture
def pair(realm: SimulatedRealm) -> DeviceKeyPair:
    return realm.new_pair(realm.new_address("alice"), WEAK)


def refusal_of(call: Callable[[], Any]) -> ServiceError:
    with pytest.raises(ServiceError) as refusal:
        call()
    return refusal.value


def field_of(call: Callable[[], Any]) -> str:
    refusal = refusal_of(call)
    assert refusal.reason == "INVALID_FIELD"
    return refusal.metadata["field"]


def test_a_good_request_is_read(realm: SimulatedRealm, pair: DeviceKeyPair) -> None:
    request = convert.read_request(realm.signed_request(pair, ENROLL), REALM, ENROLL)
    assert (request.address, request.fingerprint) == (pair.address, pair.fingerprint)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"realm": "example.net"}, "realm"),
        ({"username": "Alice"}, "username"),
        ({"username": ""}, "username"),
        ({"device_id": "short"}, "device_id"),
        ({"kind": pb.KEY_REQUEST_KIND_UNSPECIFIED}, "kind"),
        ({"kind": pb.KEY_REQUEST_KIND_RENEW}, "kind"),
        ({"kind": pb.KEY_REQUEST_KIND_RESET}, "kind"),
        ({"kind": 99}, "kind"),
        ({"parent_fingerprint": b"p" * 32}, "parent_fingerprint"),
        ({"expire_time": 0}, "expire_time"),
        ({"expire_time": -1}, "expire_time"),
        ({"epoch": 0}, "epoch"),
        ({"revision": 0}, "revision"),
        ({"revision": 2**63}, "revision"),
        ({"ca_nonce": b"n" * 129}, "ca_nonce"),
        ({"ca_nonce": b""}, "ca_nonce"),
    ],
)
def test_a_bad_field_is_named(realm: SimulatedRealm, pair: DeviceKeyPair, changes: dict[str, Any], field: str) -> None:
    others = {name: value for name, value in changes.items() if name != "kind"}
    signed = realm.signed_request(pair, changes.get("kind", ENROLL), **others)
    assert field_of(lambda: convert.read_request(signed, REALM, ENROLL)) == f"key_request.key_request.{field}"


def test_a_renewal_names_its_parent(realm: SimulatedRealm, pair: DeviceKeyPair) -> None:
    signed = realm.signed_request(pair, RENEW)
    field = field_of(lambda: convert.read_request(signed, REALM, RENEW))
    assert field == "key_request.key_request.parent_fingerprint"


@pytest.mark.parametrize(
    ("signed", "field"),
    [
        (pb.SignedKeyRequest(), "key_request.key_request"),
        (pb.SignedKeyRequest(key_request=b"\xff" * 9), "key_request.key_request"),
        (pb.SignedKeyRequest(key_request=b"x" * 8193), "key_request.key_request"),
    ],
)
def test_what_is_no_request_is_refused(signed: pb.SignedKeyRequest, field: str) -> None:
    assert field_of(lambda: convert.read_request(signed, REALM, ENROLL)) == field


def test_a_root_has_no_endorsement(realm: SimulatedRealm, pair: DeviceKeyPair) -> None:
    signed = realm.signed_request(pair, ENROLL)
    signed.endorsement = b"e"
    assert field_of(lambda: convert.read_request(signed, REALM, ENROLL)) == "key_request.endorsement"


@pytest.mark.parametrize("size", [0, 127, 129, 2000])
def test_signatures_have_the_length_of_a_suite(realm: SimulatedRealm, pair: DeviceKeyPair, size: int) -> None:
    signed = realm.signed_request(pair, RENEW, pair)
    signed.endorsement = bytes(size)
    assert field_of(lambda: convert.read_request(signed, REALM, RENEW)) == "key_request.endorsement"
    signed.possession = bytes(size)
    assert field_of(lambda: convert.read_request(signed, REALM, RENEW)) == "key_request.possession"


def test_possession_is_proven(realm: SimulatedRealm, pair: DeviceKeyPair) -> None:
    signed = realm.signed_request(pair, ENROLL)
    signed.possession = bytes(len(signed.possession))
    refusal = refusal_of(lambda: convert.read_request(signed, REALM, ENROLL))
    assert refusal.reason == "POSSESSION_UNPROVEN"


def test_an_altered_request_is_not_possessed(realm: SimulatedRealm, pair: DeviceKeyPair) -> None:
    signed = realm.signed_request(pair, ENROLL)
    signed.key_request = realm.request(pair, ENROLL, revision=2).SerializeToString()
    refusal = refusal_of(lambda: convert.read_request(signed, REALM, ENROLL))
    assert refusal.reason == "POSSESSION_UNPROVEN"


@pytest.mark.parametrize("suite", [0, 9])
def test_a_suite_that_does_not_exist_is_refused(realm: SimulatedRealm, pair: DeviceKeyPair, suite: int) -> None:
    signed = realm.signed_request(pair, ENROLL, suite=suite)
    assert field_of(lambda: convert.read_request(signed, REALM, ENROLL)) == "key_request.key_request.suite"


def _elliptic_key() -> bytes:
    public_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("public_key_der", [b"", b"no key", _elliptic_key()], ids=["nothing", "no key", "elliptic"])
def test_what_is_no_key_of_the_suite_is_refused(
    realm: SimulatedRealm, pair: DeviceKeyPair, public_key_der: bytes
) -> None:
    signed = realm.signed_request(pair, ENROLL, public_key_der=public_key_der)
    assert field_of(lambda: convert.read_request(signed, REALM, ENROLL)) == "key_request.key_request.public_key_der"


def test_a_key_of_another_size_is_refused(realm: SimulatedRealm, pair: DeviceKeyPair) -> None:
    request = realm.request(pair, ENROLL, suite=pb.Suite.ValueType(STRONG.id))
    signed = sign_possession(request, pair)
    signed.possession = bytes(STRONG.signature_bytes)
    assert field_of(lambda: convert.read_request(signed, REALM, ENROLL)) == "key_request.key_request.public_key_der"


@pytest.mark.parametrize("usernames", [[], ["alice"] * 2, [f"user{n}" for n in range(101)]])
def test_a_batch_has_1_to_100_different_usernames(usernames: list[str]) -> None:
    assert field_of(lambda: read_usernames(usernames)) == "usernames"


def test_a_username_of_a_batch_is_named() -> None:
    assert field_of(lambda: read_usernames(["alice", "Bob"])) == "usernames[1]"


def test_a_full_batch_is_read() -> None:
    usernames = [f"user{number}" for number in range(100)]
    assert read_usernames(usernames) == usernames


def test_a_code_is_read_in_its_one_form() -> None:
    proof = convert.read_proof(ca_pb.SignIn(one_time_code="0000-" * 5 + "ooo1ab"))
    assert proof.code == "0" * 20 + "0001AB"
    assert "0001AB" not in repr(proof)


@pytest.mark.parametrize("code", ["", "0" * 25, "U" * 26, "8" + "0" * 25, "\u0131" + "0" * 25, "-" * 39 + "0" * 26])
def test_what_is_no_code_is_refused(code: str) -> None:
    assert field_of(lambda: convert.read_proof(ca_pb.SignIn(one_time_code=code))) == "sign_in.one_time_code"


def test_an_id_token_is_taken_as_it_is_and_shown_to_nobody() -> None:
    proof = convert.read_proof(ca_pb.SignIn(id_token="e30.e30.c2ln"))
    assert (proof.id_token, proof.kind) == ("e30.e30.c2ln", Kind.OIDC)
    assert "c2ln" not in repr(proof)


@pytest.mark.parametrize(
    "token",
    ["", "e30.e30", "e30.e30.", "e30..c2ln", "e30.e30.c2ln.e30.e30", "e30.e30.c2==", "e30.e30.c2ln\n", "e30." * 3_000],
)
def test_what_is_no_signed_token_is_refused(token: str) -> None:
    assert field_of(lambda: convert.read_proof(ca_pb.SignIn(id_token=token))) == "sign_in.id_token"


def test_numbers_are_bounded() -> None:
    assert read_number(2**63 - 1, "after_sequence") == 2**63 - 1
    assert field_of(lambda: read_number(2**63, "after_sequence")) == "after_sequence"
