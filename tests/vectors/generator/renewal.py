"""Vectors of the eight steps of a renewal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes

from keypost.clock import HOUR
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol import rsa
from keypost.protocol.encoding import sha256
from keypost.protocol.renewal import step_4_upload, step_8_old_key_needed_until
from keypost.protocol.suites import STRONG, WEAK, Suite
from support.clock import ManualClock
from support.realm import SimulatedRealm
from vectors.generator.files import VectorFile, flipped
from vectors.generator.talk import name_of

if TYPE_CHECKING:
    from keypost.protocol.key_requests import DeviceKeyPair


def renewal_file() -> VectorFile:
    file = VectorFile(
        "renewal",
        "The eight steps. `parent` is the SignedKeyRequest of the old key as recorded, `upload` what the client sends "
        "(step 4), accepted at `accept_time`. Keys are named as in keys.json.",
        "Renewal",
    )
    for old_suite, new_suite in ((STRONG, STRONG), (WEAK, WEAK), (WEAK, STRONG)):
        _good(file, old_suite, new_suite)
    for suite in (STRONG, WEAK):
        _bad(file, suite)
    _lowered(file)
    return file


def _pairs(old_suite: Suite, new_suite: Suite) -> tuple[SimulatedRealm, DeviceKeyPair, DeviceKeyPair]:
    clock = ManualClock()
    realm = SimulatedRealm(clock)
    old = realm.enroll("alice", old_suite)
    clock.advance(HOUR)
    return realm, old, realm.new_pair(old.address, new_suite)


def _input(realm: SimulatedRealm, upload: pb.SignedKeyRequest, old: DeviceKeyPair) -> dict[str, Any]:
    return {
        "old_suite": old.suite.name,
        "parent": realm.user("alice").keys[0].request.signed.SerializeToString().hex(),
        "upload": upload.SerializeToString().hex(),
        "accept_time": realm.clock(),
    }


def _good(file: VectorFile, old_suite: Suite, new_suite: Suite) -> None:
    realm, old, new = _pairs(old_suite, new_suite)
    request = realm.request(new, pb.KEY_REQUEST_KIND_RENEW, old.fingerprint)
    upload = step_4_upload(request, new, old)
    endorsement_hash = old.suite.endorsement_hash(upload.key_request, new.public_key_der).hex()
    steps = {
        "1": {"old_key": name_of(old.fingerprint), "new_key": name_of(new.fingerprint)},
        "2": {"endorsement_hash": endorsement_hash, "algorithm": "SHA-1" if old_suite is WEAK else "SHA-256"},
        "3": {"endorsement": upload.endorsement.hex()},
        "4": {"key_request": upload.key_request.hex(), "possession": upload.possession.hex()},
        "5": {"endorsement_hash": endorsement_hash},
        "6": {"old_public_key_der": old.public_key_der.hex()},
        "7": {"superseded": old.fingerprint.hex(), "since": realm.clock(), "good": new.fingerprint.hex()},
        "8": {"old_key_needed_until": step_8_old_key_needed_until(realm.clock(), realm.constants)},
    }
    name = f"{old_suite.name} to {new_suite.name}"
    file.good(name, **_input(realm, upload, old), steps=steps)


def _bad(file: VectorFile, suite: Suite) -> None:
    realm, old, new = _pairs(suite, suite)
    request = realm.request(new, pb.KEY_REQUEST_KIND_RENEW, old.fingerprint)
    upload = step_4_upload(request, new, old)
    thief = realm.new_pair(old.address, suite)
    digest = suite.endorsement_hash(upload.key_request, new.public_key_der)
    other_digest = suite.endorsement_hash(flipped(upload.key_request, -1), thief.public_key_der)
    endorsements = {
        "signed by another key": suite.sign_endorsement(thief.private_key, digest),
        "signed by the new key": suite.sign_endorsement(new.private_key, digest),
        "the signature is altered": flipped(upload.endorsement, -1),
        "the signature is of another new key": suite.sign_endorsement(old.private_key, other_digest),
        "not signed": b"",
    }
    if suite is WEAK:
        sha256_ = rsa.sign_digest(old.private_key, sha256(new.public_key_der), rsa.PKCS1, hashes.SHA256())
        endorsements["SHA-256 instead of SHA-1"] = sha256_
    for name, endorsement in endorsements.items():
        bad = pb.SignedKeyRequest(key_request=upload.key_request, possession=upload.possession, endorsement=endorsement)
        file.fails("ENDORSEMENT_REFUSED", f"{suite.name}: {name}", **_input(realm, bad, old))
    unproven = pb.SignedKeyRequest(
        key_request=upload.key_request, possession=flipped(upload.possession), endorsement=upload.endorsement
    )
    file.fails("POSSESSION_UNPROVEN", f"{suite.name}: the new key did not sign", **_input(realm, unproven, old))


def _lowered(file: VectorFile) -> None:
    realm, old, new = _pairs(STRONG, WEAK)
    request = realm.request(new, pb.KEY_REQUEST_KIND_RENEW, old.fingerprint)
    upload = step_4_upload(request, new, old)
    file.fails("ENDORSEMENT_REFUSED", "a renewal that lowers the suite", **_input(realm, upload, old))
    realm, old, _ = _pairs(STRONG, STRONG)
    elsewhere = realm.new_pair(realm.new_address("alice"))
    request = realm.request(elsewhere, pb.KEY_REQUEST_KIND_RENEW, old.fingerprint)
    upload = step_4_upload(request, elsewhere, old)
    file.fails("ENDORSEMENT_REFUSED", "a renewal on another device", **_input(realm, upload, old))
