"""Checks of the vector files about statements: trust, key requests, records, renewals."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from keypost.keys.v1 import key_info_pb2, realm_trust_pb2
from vectors.verifier.primitives import SUITE_NAMES, PublicKey, RefusedError, pae, same, sha256, verify_ed25519

Case = dict[str, Any]
Shared = dict[str, Any]


M = TypeVar("M", bound=Message)


def parsed(message: M, data: bytes) -> M:
    """Parse a message."""
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise RefusedError("MALFORMED_STATEMENT") from error
    return message


def read_trust(signed_hex: str, root_keys: list[bytes]) -> realm_trust_pb2.RealmTrust:
    """Verify a SignedRealmTrust."""
    signed = realm_trust_pb2.SignedRealmTrust.FromString(bytes.fromhex(signed_hex))
    roots = {sha256(der): der for der in root_keys}
    if signed.root_key_fingerprint not in roots:
        raise RefusedError("REALM_TRUST_REFUSED")
    root = roots[signed.root_key_fingerprint]
    verify_ed25519(root, "keypost/v1/realm-trust", signed.realm_trust, signed.signature)
    return parsed(realm_trust_pb2.RealmTrust(), signed.realm_trust)


def stand(statement: realm_trust_pb2.RealmTrust) -> tuple[list[bytes], int]:
    """Return the root keys that count from a statement on, and its sequence."""
    return [key.public_key_der for key in statement.root_keys], statement.sequence


def follow(earlier: list[str], roots: list[bytes], sequence: int | None) -> list[bytes]:
    """Return the root keys at the end of a chain of statements."""
    for signed_hex in earlier:
        signed = realm_trust_pb2.SignedRealmTrust.FromString(bytes.fromhex(signed_hex))
        if sequence is None:
            needed = signed.root_key_fingerprint in map(sha256, roots)
        else:
            needed = parsed(realm_trust_pb2.RealmTrust(), signed.realm_trust).sequence > sequence
        if needed:
            roots, sequence = stand(read_trust(signed_hex, roots))
    return roots


def realm_trust(case: Case, _: Shared) -> None:
    """Check a case of realm_trust.json."""
    roots = [bytes.fromhex(der) for der in case["root_keys"]]
    sequence = None
    if case["previous"]:
        previous = realm_trust_pb2.SignedRealmTrust.FromString(bytes.fromhex(case["previous"]))
        roots, sequence = stand(realm_trust_pb2.RealmTrust.FromString(previous.realm_trust))
    trust = read_trust(case["signed_realm_trust"], follow(case["earlier"], roots, sequence))
    if "must_fail" in case:
        return
    same("sequence", case["sequence"], trust.sequence)
    if "record_keys" in case:
        constants = trust.constants
        settle = constants.record_lifetime + 300_000
        fingerprints = [sha256(key.public_key_der).hex() for key in trust.record_keys]
        same("record_keys", case["record_keys"], fingerprints)
        same("settle", case["settle"], settle)
        limit = constants.rotation_period + constants.mailbox_age + settle + 86_400_000
        same("age_limit", case["age_limit"], limit)
        same("until_time", case["until_time"], trust.until_time)


def public_key_of(request: key_info_pb2.KeyRequest) -> PublicKey:
    """Return the key that a key request presents."""
    if request.suite not in SUITE_NAMES:
        raise RefusedError("SUITE_UNKNOWN")
    return PublicKey(SUITE_NAMES[request.suite], request.public_key_der)


def read_request(signed: key_info_pb2.SignedKeyRequest) -> key_info_pb2.KeyRequest:
    """Verify possession."""
    request = parsed(key_info_pb2.KeyRequest(), signed.key_request)
    key = public_key_of(request)
    key.key  # noqa: B018 - loading it checks it
    try:
        key.verify("keypost/v1/key-request", signed.key_request, signed.possession)
    except RefusedError as error:
        raise RefusedError("POSSESSION_UNPROVEN") from error
    return request


def check_endorsement(signed: key_info_pb2.SignedKeyRequest, parent: key_info_pb2.KeyRequest) -> bytes:
    """Verify an endorsement and return the hash that was signed."""
    key = public_key_of(parent)
    child = key_info_pb2.KeyRequest.FromString(signed.key_request)
    hashed = key.endorsement_hash(signed.key_request, child.public_key_der)
    try:
        key.verify_endorsement(hashed, signed.endorsement)
    except RefusedError as error:
        raise RefusedError("ENDORSEMENT_REFUSED") from error
    return hashed


def key_requests(case: Case, _: Shared) -> None:
    """Check a case of key_requests.json."""
    signed = key_info_pb2.SignedKeyRequest.FromString(bytes.fromhex(case["key_request"]))
    request = read_request(signed)
    if case.get("parent"):
        parent = read_request(key_info_pb2.SignedKeyRequest.FromString(bytes.fromhex(case["parent"])))
        hashed = check_endorsement(signed, parent)
        if "endorsement_hash" in case:
            same("endorsement_hash", case["endorsement_hash"], hashed.hex())
    if "fingerprint" in case:
        same("fingerprint", case["fingerprint"], sha256(request.public_key_der).hex())
        same("signed", case["signed"], pae(b"keypost/v1/key-request", signed.key_request).hex())
        same("address", case["address"], f"{request.username}/{request.device_id}")
        same("suite", case["suite"], SUITE_NAMES[request.suite])
        numbers = (request.epoch, request.revision, request.expire_time)
        same("numbers", (case["epoch"], case["revision"], case["expire_time"]), numbers)


def read_record(key_info_hex: str, shared: Shared, held: str = "") -> key_info_pb2.UserKeys:
    """Verify every signature within key info; ``held`` is key info from before, whose requests it may leave out."""
    trust = read_trust(shared["realm_trust"], [bytes.fromhex(der) for der in shared["root_keys"]])
    key_info = key_info_pb2.KeyInfo.FromString(bytes.fromhex(key_info_hex))
    record_keys = {sha256(key.public_key_der): key.public_key_der for key in trust.record_keys}
    signed = key_info.record
    if signed.record_key_fingerprint not in record_keys:
        raise RefusedError("UNKNOWN_RECORD_KEY")
    record_key = record_keys[signed.record_key_fingerprint]
    verify_ed25519(record_key, "keypost/v1/user-keys", signed.user_keys, signed.signature)
    statement = parsed(key_info_pb2.UserKeys(), signed.user_keys)
    requests = [*key_info.history, *(entry.request for entry in statement.entries)]
    by_fingerprint = {}
    for signed_request in requests:
        request = read_request(signed_request)
        by_fingerprint[sha256(request.public_key_der)] = request
    for signed_request in _requests_of(held):
        request = read_request(signed_request)
        if request.epoch == statement.epoch:
            by_fingerprint.setdefault(sha256(request.public_key_der), request)
    for signed_request in requests:
        child = key_info_pb2.KeyRequest.FromString(signed_request.key_request)
        if child.epoch == statement.epoch and child.parent_fingerprint:
            if child.parent_fingerprint not in by_fingerprint:
                raise RefusedError("TREE_BROKEN")
            check_endorsement(signed_request, by_fingerprint[child.parent_fingerprint])
    return statement


def _requests_of(key_info_hex: str) -> list[key_info_pb2.SignedKeyRequest]:
    key_info = key_info_pb2.KeyInfo.FromString(bytes.fromhex(key_info_hex))
    entries = key_info_pb2.UserKeys.FromString(key_info.record.user_keys).entries
    return [*key_info.history, *(entry.request for entry in entries)]


def user_keys(case: Case, shared: Shared) -> None:
    """Check a case of user_keys.json."""
    statement = read_record(case["key_info"], shared)
    if "must_fail" in case:
        return
    same("epoch", case["epoch"], statement.epoch)
    same("revision", case["revision"], statement.revision)
    states = {1: "good", 2: "superseded", 3: "revoked"}
    requests = [key_info_pb2.KeyRequest.FromString(entry.request.key_request) for entry in statement.entries]
    keys = [
        {
            "address": f"{request.username}/{request.device_id}",
            "fingerprint": sha256(request.public_key_der).hex(),
            "state": states[entry.state],
        }
        for request, entry in zip(requests, statement.entries, strict=True)
    ]
    same("keys", case["keys"], keys)
    good = [
        key["fingerprint"]
        for key, request in zip(keys, requests, strict=True)
        if key["state"] == "good" and case["now"] < request.expire_time and key["fingerprint"] not in case["void"]
    ]
    same("good", case["good"], good)


def continuity(case: Case, shared: Shared) -> None:
    """Check a case of continuity.json: both records are right in themselves."""
    previous = read_record(case["previous"]["key_info"], shared)
    current = read_record(case["current"]["key_info"], shared, case["previous"]["key_info"])
    if case.get("keep") == "previous":
        same("an older one of the same revision", True, previous.this_update > current.this_update)  # noqa: FBT003


def renewal(case: Case, _: Shared) -> None:
    """Check a case of renewal.json."""
    parent = read_request(key_info_pb2.SignedKeyRequest.FromString(bytes.fromhex(case["parent"])))
    upload = key_info_pb2.SignedKeyRequest.FromString(bytes.fromhex(case["upload"]))
    new = read_request(upload)
    hashed = check_endorsement(upload, parent)
    if "must_fail" in case:
        return
    steps = case["steps"]
    same("step 2", steps["2"]["endorsement_hash"], hashed.hex())
    same("step 3", steps["3"]["endorsement"], upload.endorsement.hex())
    same("step 4", steps["4"]["key_request"], upload.key_request.hex())
    same("step 5", steps["5"]["endorsement_hash"], hashed.hex())
    same("step 6", steps["6"]["old_public_key_der"], parent.public_key_der.hex())
    same("step 7, old", steps["7"]["superseded"], sha256(parent.public_key_der).hex())
    same("step 7, new", steps["7"]["good"], sha256(new.public_key_der).hex())
    same("step 8", steps["8"]["old_key_needed_until"], case["accept_time"] + 3_600_000 + 300_000)
