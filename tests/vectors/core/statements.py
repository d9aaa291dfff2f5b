"""Runs vectors about statements through ``keypost.protocol``; what must be refused is raised as a ProtocolError."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.keys.v1 import realm_trust_pb2 as trust_pb
from keypost.protocol.continuity import check_pins, check_successor, pin
from keypost.protocol.encoding import KEY_REQUEST, pae
from keypost.protocol.key_info import GOOD, REVOKED, SUPERSEDED, Key, KeyRecord, read_key_info
from keypost.protocol.key_requests import read_key_request, verify_endorsement
from keypost.protocol.realm_trust import Constants, RealmTrust, ServedTrust, follow_realm_trust, read_realm_trust
from keypost.protocol.renewal import (
    step_5_hash_uploaded_public_key,
    step_6_verify_signature,
    step_7_update_key_info,
    step_8_old_key_needed_until,
)
from keypost.protocol.suites import suite_named

if TYPE_CHECKING:
    from collections.abc import Mapping

STATES = {GOOD: "good", SUPERSEDED: "superseded", REVOKED: "revoked"}
Case = dict[str, Any]
Shared = dict[str, Any]


def _signed_trust(data: str) -> trust_pb.SignedRealmTrust:
    return trust_pb.SignedRealmTrust.FromString(bytes.fromhex(data))


def _trust(shared: Mapping[str, Any], now: int) -> RealmTrust:
    roots = [bytes.fromhex(der) for der in shared["root_keys"]]
    return read_realm_trust(_signed_trust(shared["realm_trust"]), realm=shared["realm"], root_keys=roots, now=now)


def realm_trust(case: Case, _: Shared) -> None:
    roots = [bytes.fromhex(der) for der in case["root_keys"]]
    previous = None
    if case["previous"]:
        signed = _signed_trust(case["previous"])
        former = [key.public_key_der for key in trust_pb.RealmTrust.FromString(signed.realm_trust).root_keys]
        previous = read_realm_trust(signed, realm=case["realm"], root_keys=roots + former, now=case["now"])
    earlier = tuple(_signed_trust(signed) for signed in case["earlier"])
    trust = follow_realm_trust(
        ServedTrust(_signed_trust(case["signed_realm_trust"]), earlier),
        realm=case["realm"],
        root_keys=roots,
        now=case["now"],
        previous=previous,
    )
    assert trust.sequence == case["sequence"]
    if "record_keys" in case:
        assert [key.fingerprint.hex() for key in trust.record_keys] == case["record_keys"]
        assert trust.constants.settle == case["settle"]
        assert trust.constants.age_limit == case["age_limit"]
        assert trust.until_time == case["until_time"]


def key_requests(case: Case, _: Shared) -> None:
    request = read_key_request(pb.SignedKeyRequest.FromString(bytes.fromhex(case["key_request"])))
    if case.get("parent"):
        parent = read_key_request(pb.SignedKeyRequest.FromString(bytes.fromhex(case["parent"])))
        verify_endorsement(request, parent)
        if "endorsement_hash" in case:
            digest = parent.suite.endorsement_hash(request.signed.key_request, request.public_key_der)
            assert digest.hex() == case["endorsement_hash"]
    if "fingerprint" in case:
        assert request.fingerprint.hex() == case["fingerprint"]
        assert str(request.address) == case["address"]
        assert request.suite.name == case["suite"]
        assert (request.epoch, request.revision) == (case["epoch"], case["revision"])
        assert request.expire_time == case["expire_time"]
        assert pae(KEY_REQUEST, request.signed.key_request).hex() == case["signed"]


def _read(key_info: str, username: str, now: int, shared: Shared, previous: KeyRecord | None = None) -> KeyRecord:
    info = pb.KeyInfo.FromString(bytes.fromhex(key_info))
    return read_key_info(info, trust=_trust(shared, now), username=username, now=now, previous=previous)


def user_keys(case: Case, shared: Shared) -> None:
    record = _read(case["key_info"], case["username"], case["now"], shared)
    keys = [
        {"address": str(key.address), "fingerprint": key.fingerprint.hex(), "state": STATES[key.state]}
        for key in record.keys
    ]
    assert keys == case["keys"]
    assert (record.epoch, record.revision) == (case["epoch"], case["revision"])
    assert record.tree().root.hex() == case["root"]
    assert [key.fingerprint.hex() for key in record.good_keys(case["now"])] == case["good"]
    assert [key.fingerprint.hex() for key in record.keys if record.is_void(key)] == case["void"]


def continuity(case: Case, shared: Shared) -> None:
    username, (before, after) = case["username"], (case["previous"], case["current"])
    previous = _read(before["key_info"], username, before["now"], shared)
    current = _read(after["key_info"], username, after["now"], shared, previous)
    if case["check"] == "successor":
        kept = check_successor(previous, current, _trust(shared, case["current"]["now"]).constants)
        assert kept is {"previous": previous, "current": current}[case["keep"]]
        return
    minimum = suite_named(case["minimum_suite"])
    pins = check_pins(pin(previous, minimum), current, minimum)
    assert pins.root.hex() == case["root"]
    assert {key.fingerprint for key in current.keys if key.suite.strength >= minimum.strength} <= set(pins.members)


def renewal(case: Case, _: Shared) -> None:
    old = read_key_request(pb.SignedKeyRequest.FromString(bytes.fromhex(case["parent"])))
    new = read_key_request(pb.SignedKeyRequest.FromString(bytes.fromhex(case["upload"])))
    digest = step_5_hash_uploaded_public_key(old, new)
    step_6_verify_signature(old, new, digest)
    steps = case["steps"]
    assert digest.hex() == steps["2"]["endorsement_hash"] == steps["5"]["endorsement_hash"]
    ended, entered = step_7_update_key_info([Key(old, GOOD, 1, 1)], new, case["accept_time"])
    assert (ended.state, ended.state_time, entered.state) == (SUPERSEDED, steps["7"]["since"], GOOD)
    assert (ended.fingerprint.hex(), entered.fingerprint.hex()) == (steps["7"]["superseded"], steps["7"]["good"])
    assert step_8_old_key_needed_until(case["accept_time"], Constants()) == steps["8"]["old_key_needed_until"]
