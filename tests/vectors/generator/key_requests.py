"""Vectors of key requests: possession and endorsement."""

from __future__ import annotations

from typing import Any

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import ENDORSEMENT, KEY_REQUEST, pae
from keypost.protocol.key_requests import DeviceKeyPair, read_key_request, sign_possession
from keypost.protocol.rsa import public_key_der
from keypost.protocol.suites import STRONG, WEAK, Suite
from support.keys import pooled_key
from support.realm import SimulatedRealm
from vectors.generator.files import VectorFile, flipped

ENROLL, APPROVE = pb.KEY_REQUEST_KIND_ENROLL, pb.KEY_REQUEST_KIND_APPROVE
RENEW, RESET = pb.KEY_REQUEST_KIND_RENEW, pb.KEY_REQUEST_KIND_RESET
PARENT = bytes(32)


def key_requests_file() -> VectorFile:
    file = VectorFile(
        "key_requests",
        "A SignedKeyRequest, whose possession is verified; with `parent`, another one whose key must have endorsed it.",
        "Key requests",
    )
    for suite in (STRONG, WEAK):
        _possession(file, suite)
        _renewals(file, suite)
    _vouching(file)
    _fields(file)
    return file


def _hex(signed: pb.SignedKeyRequest) -> str:
    return signed.SerializeToString().hex()


def _possession(file: VectorFile, suite: Suite) -> None:
    realm = SimulatedRealm()
    pair = realm.new_pair(realm.new_address("alice"), suite)
    signed = realm.signed_request(pair, ENROLL)
    request = read_key_request(signed)
    file.good(
        f"{suite.name}: a root",
        key_request=_hex(signed),
        statement=signed.key_request.hex(),
        signed=pae(KEY_REQUEST, signed.key_request).hex(),
        fingerprint=request.fingerprint.hex(),
        address=str(request.address),
        suite=request.suite.name,
        epoch=request.epoch,
        revision=request.revision,
        expire_time=request.expire_time,
    )
    other = realm.new_pair(pair.address, suite)
    by_other = sign_possession(pb.KeyRequest.FromString(signed.key_request), other)
    as_endorsement = suite.sign(pair.private_key, ENDORSEMENT, signed.key_request)
    wrong = {
        "signed by another key": by_other.possession,
        "altered": flipped(signed.possession, -1),
        "empty": b"",
        "signed under another label": as_endorsement,
    }
    for name, possession in wrong.items():
        bad = pb.SignedKeyRequest(key_request=signed.key_request, possession=possession)
        file.fails("POSSESSION_UNPROVEN", f"{suite.name}: possession {name}", key_request=_hex(bad))
    altered = pb.KeyRequest.FromString(signed.key_request)
    altered.expire_time += 1
    bad = pb.SignedKeyRequest(key_request=altered.SerializeToString(), possession=signed.possession)
    file.fails("POSSESSION_UNPROVEN", f"{suite.name}: the statement is altered", key_request=_hex(bad))


def _renewals(file: VectorFile, suite: Suite) -> None:
    realm = SimulatedRealm()
    old = realm.enroll("alice", suite)
    parent = realm.user("alice").keys[0].request.signed
    new = realm.new_pair(old.address, suite)
    signed = realm.signed_request(new, RENEW, old)
    digest = suite.endorsement_hash(signed.key_request, new.public_key_der)
    common = {"parent": _hex(parent)}
    file.good(f"{suite.name}: a renewal", key_request=_hex(signed), **common, endorsement_hash=digest.hex())
    stranger = realm.new_pair(old.address, suite)
    wrong = {
        "altered": flipped(signed.endorsement, -1),
        "missing": b"",
        "by another key": suite.sign_endorsement(stranger.private_key, digest),
        "by the new key itself": suite.sign_endorsement(new.private_key, digest),
    }
    for name, endorsement in wrong.items():
        bad = pb.SignedKeyRequest(key_request=signed.key_request, possession=signed.possession, endorsement=endorsement)
        file.fails("ENDORSEMENT_REFUSED", f"{suite.name}: endorsement {name}", key_request=_hex(bad), **common)


def _vouching(file: VectorFile) -> None:
    realm = SimulatedRealm()
    root = realm.enroll("alice")
    parent = _hex(realm.user("alice").keys[0].request.signed)
    device = realm.new_pair(realm.new_address("alice"))
    file.good("an approval", key_request=_hex(realm.signed_request(device, APPROVE, root)), parent=parent)
    same = realm.new_pair(root.address)
    other_user = realm.new_pair(realm.new_address("mallory"))
    weak = realm.new_pair(root.address, WEAK)
    refused: dict[str, tuple[DeviceKeyPair, pb.KeyRequestKind.ValueType, dict[str, Any]]] = {
        "an approval on the same device": (same, APPROVE, {}),
        "a renewal on another device": (device, RENEW, {}),
        "a renewal to a weaker suite": (weak, RENEW, {}),
        "a key of another user": (other_user, APPROVE, {"revision": 2}),
        "a key of another realm": (device, APPROVE, {"realm": "evil.org"}),
        "a key of another epoch": (device, APPROVE, {"epoch": 2}),
        "a key that entered with its parent": (device, APPROVE, {"revision": 1}),
    }
    for name, (pair, kind, changes) in refused.items():
        signed = realm.signed_request(pair, kind, root, **changes)
        file.fails("ENDORSEMENT_REFUSED", name, key_request=_hex(signed), parent=parent)
    named = realm.signed_request(device, APPROVE, root, parent_fingerprint=PARENT)
    file.fails("ENDORSEMENT_REFUSED", "another parent is named", key_request=_hex(named), parent=parent)
    weak_realm = SimulatedRealm()
    weak_root = weak_realm.enroll("alice", WEAK)
    signed = weak_realm.signed_request(weak_realm.new_pair(weak_realm.new_address("alice")), APPROVE, weak_root)
    weak_parent = _hex(weak_realm.user("alice").keys[0].request.signed)
    file.fails("ENDORSEMENT_REFUSED", "a weak key approves", key_request=_hex(signed), parent=weak_parent)
    upgraded = weak_realm.signed_request(weak_realm.new_pair(weak_root.address), RENEW, weak_root)
    file.good("a renewal to a stronger suite", key_request=_hex(upgraded), parent=weak_parent)


def _fields(file: VectorFile) -> None:
    realm = SimulatedRealm()
    pair = realm.new_pair(realm.new_address("alice"), WEAK)
    strong_der = public_key_der(pooled_key(STRONG, 0))
    # The same key without the NULL of its algorithm: a second encoding would be a second fingerprint.
    der = pair.public_key_der
    not_canonical = (
        b"\x30\x81" + bytes([der[2] - 2]) + der[3:].replace(b"\x30\x0d", b"\x30\x0b", 1).replace(b"\x05\x00", b"", 1)
    )
    malformed: dict[str, dict[str, Any]] = {
        "no realm": {"realm": ""},
        "a username with a capital": {"username": "Alice"},
        "a username that ends in a dot": {"username": "alice."},
        "a device_id too short": {"device_id": "a" * 15},
        "epoch 0": {"epoch": 0},
        "revision 0": {"revision": 0},
        "expire_time 0": {"expire_time": 0},
        "a nonce of 129 bytes": {"ca_nonce": bytes(129)},
        "an unknown kind": {"kind": 99},
        "a root with a parent": {"parent_fingerprint": PARENT},
        "a renewal without a parent": {"kind": RENEW},
        "a fingerprint of 31 bytes": {"kind": APPROVE, "parent_fingerprint": bytes(31)},
    }
    for name, changes in malformed.items():
        signed = realm.signed_request(pair, **({"kind": ENROLL} | changes))
        file.fails("MALFORMED_STATEMENT", name, key_request=_hex(signed))
    endorsed = realm.signed_request(pair, ENROLL)
    endorsed.endorsement = endorsed.possession
    file.fails("MALFORMED_STATEMENT", "a root with an endorsement", key_request=_hex(endorsed))
    file.fails("MALFORMED_STATEMENT", "no message", key_request=_hex(pb.SignedKeyRequest(key_request=b"\xff")))
    for name, suite in (("no suite", 0), ("an unknown suite", 99)):
        signed = realm.signed_request(pair, ENROLL, suite=suite)
        file.fails("SUITE_UNKNOWN", name, key_request=_hex(signed))
    keys = {
        "a key of another size than its suite's": strong_der,
        "a key that is no key": b"key",
        "an Ed25519 key": realm.root.public_key_der,
        "a key in another encoding": not_canonical,
        "a key with a byte behind it": pair.public_key_der + b"\0",
    }
    for name, der in keys.items():
        signed = realm.signed_request(pair, ENROLL, public_key_der=der)
        file.fails("KEY_REFUSED", name, key_request=_hex(signed))
    wrong_suite = realm.signed_request(pair, ENROLL, suite=STRONG.id)
    file.fails("KEY_REFUSED", "a weak key that claims to be strong", key_request=_hex(wrong_suite))
