"""Checks of the vector files about hashes, suites, envelopes and tokens."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1, SHA256

from keypost.delivery.v1 import envelope_pb2
from keypost.keys.v1 import key_info_pb2
from vectors.verifier import primitives as p
from vectors.verifier.primitives import RefusedError, same
from vectors.verifier.statements import Case, Shared, parsed, read_record

Keys = dict[str, dict[str, str]]


def private_key(keys: Keys, name: str) -> rsa.RSAPrivateKey:
    """Return a private key of keys.json."""
    return _loaded(bytes.fromhex(keys[name]["private_key_der"]))


@cache
def _loaded(der: bytes) -> rsa.RSAPrivateKey:
    key = serialization.load_der_private_key(der, None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("not RSA")
    return key


def public_key(keys: Keys, name: str) -> p.PublicKey:
    """Return a public key of keys.json."""
    return p.PublicKey(keys[name]["suite"], bytes.fromhex(keys[name]["public_key_der"]))


def pae(case: Case, _: Shared) -> None:
    """Check a case of pae.json."""
    same("encoding", case["encoding"], p.pae(*(bytes.fromhex(piece) for piece in case["pieces"])).hex())


def padding_(case: Case, _: Shared) -> None:
    """Check a case of padding.json."""
    if "size" in case:
        same("padded_size", case["padded_size"], p.padded_size(case["size"]))
        return
    content = p.unpad(bytes.fromhex(case["padded"])).hex()
    same("content", case["content"], content)
    same("padded", case["padded"], p.pad(bytes.fromhex(content)).hex())


def keys_(case: Case, _: Shared) -> None:
    """Check a case of keys.json."""
    public = p.PublicKey(case["suite"], bytes.fromhex(case["public_key_der"]))
    same("the private half", private_key({"": case}, "").public_key().public_numbers(), public.key.public_numbers())
    same("fingerprint", case["fingerprint"], p.sha256(public.der).hex())


def key_id(case: Case, _: Shared) -> None:
    """Check a case of key_id.json."""
    username = case["creator"].split("/")[0]
    creator = (case["creator"], bytes.fromhex(case["creator_fingerprint"]))
    session_key = bytes.fromhex(case["session_key"])
    users = [username, case["peer"]]
    name = p.key_id(case["suite"], case["realm"], creator, users, case["session_create_time"], session_key)
    same("key_id", case["key_id"], name.hex())
    same("encoding", case["key_id"], p.sha256(bytes.fromhex(case["encoding"])).hex())


def message_key(case: Case, _: Shared) -> None:
    """Check a case of message_key.json."""
    sender = (case["sender"], bytes.fromhex(case["sender_fingerprint"]))
    session_key, name = bytes.fromhex(case["session_key"]), bytes.fromhex(case["key_id"])
    same(
        "message_key", case["message_key"], p.message_key(case["suite"], session_key, case["realm"], name, sender).hex()
    )


def associated_data(case: Case, _: Shared) -> None:
    """Check a case of associated_data.json."""
    header, extension = bytes.fromhex(case["header"]), bytes.fromhex(case["extension"])
    same("associated_data", case["associated_data"], p.associated_data(header, extension).hex())
    same("extension_hash", case["extension_hash"], p.sha256(extension).hex())


def suites(case: Case, shared: Shared) -> None:
    """Check a case of suites.json."""
    _OPERATIONS[case["operation"]](case, shared["keys"])


def _open(case: Case, keys: Keys) -> None:
    opened = p.open_sealed(private_key(keys, case["key"]), bytes.fromhex(case["sealed_key"]))
    _check_length(case["suite"], opened)
    same("session_key", case["session_key"], opened.hex())


def _check_length(suite: str, session_key: bytes) -> None:
    if len(session_key) != p.SESSION_KEY_BYTES[suite]:
        raise RefusedError("SESSION_KEY_REFUSED")


def _verify(case: Case, keys: Keys) -> None:
    statement, signature = bytes.fromhex(case["statement"]), bytes.fromhex(case["signature"])
    public_key(keys, case["key"]).verify(case["label"], statement, signature)
    digest = p.sha256(p.pae(case["label"].encode(), statement))
    same("digest", case["digest"], digest.hex())
    _check_deterministic(case, keys, digest, SHA256())


def _check_deterministic(case: Case, keys: Keys, digest: bytes, algorithm: SHA1 | SHA256) -> None:
    if case["suite"] == p.WEAK:
        again = private_key(keys, case["key"]).sign(digest, padding.PKCS1v15(), utils.Prehashed(algorithm))
        same("signature, made again", case["signature"], again.hex())


def _verify_extension(case: Case, keys: Keys) -> None:
    hashed = p.sha256(bytes.fromhex(case["session_key"]))
    digest = p.extension_digest(case["suite"], bytes.fromhex(case["extension"]), hashed)
    public_key(keys, case["key"]).verify_digest(digest, bytes.fromhex(case["signature"]))
    same("digest", case["digest"], digest.hex())
    _check_deterministic(case, keys, digest, SHA256())


def _verify_endorsement(case: Case, keys: Keys) -> None:
    parent = public_key(keys, case["key"])
    hashed = parent.endorsement_hash(bytes.fromhex(case["key_request"]), bytes.fromhex(case["new_public_key_der"]))
    parent.verify_endorsement(hashed, bytes.fromhex(case["signature"]))
    same("endorsement_hash", case["endorsement_hash"], hashed.hex())
    _check_deterministic(case, keys, hashed, SHA1())  # noqa: S303 - the weak suite's renewal


def _decrypt(case: Case, _: Keys) -> None:
    key, nonce, data, ciphertext = (
        bytes.fromhex(case[name]) for name in ("message_key", "nonce", "associated_data", "ciphertext")
    )
    content = p.decrypt(case["suite"], key, nonce, ciphertext, data)
    same("content", case["content"], content.hex())
    again = AESGCM(key).encrypt(nonce, bytes.fromhex(case["plaintext"]), data)
    same("ciphertext, made again", case["ciphertext"], again.hex())


_OPERATIONS = {
    "open": _open,
    "verify": _verify,
    "verify_extension": _verify_extension,
    "verify_endorsement": _verify_endorsement,
    "decrypt": _decrypt,
}


def negotiation(case: Case, shared: Shared) -> None:
    """Check a case of negotiation.json: steps 8 to 14 as far as they are cryptography."""
    envelope = envelope_pb2.Envelope.FromString(bytes.fromhex(case["envelope"]))
    header = parsed(envelope_pb2.Header(), envelope.header)
    extension = parsed(envelope_pb2.Extension(), envelope.key_extension.extension)
    record = read_record(shared["key_info"][case["sender_key_info"]], shared)
    signer = _signer(record, extension.signer.fingerprint)
    own = bytes.fromhex(shared["keys"][case["recipient_key"]]["fingerprint"])
    sealed = [key.sealed_key for key in envelope.key_extension.sealed_keys if key.fingerprint == own]
    if not sealed:
        raise RefusedError("NOT_FOR_THIS_DEVICE")
    if extension.suite not in p.SUITE_NAMES:
        raise RefusedError("SUITE_UNKNOWN")
    if p.SUITE_NAMES[extension.suite] != signer.suite:
        raise RefusedError("SUITE_REFUSED")
    session_key = p.open_sealed(private_key(shared["keys"], case["recipient_key"]), sealed[0])
    _check_length(signer.suite, session_key)
    name = _key_id(signer.suite, extension, session_key)
    if name != extension.key_id:
        raise RefusedError("KEY_ID_MISMATCH")
    hashed = p.sha256(session_key)
    digest = p.extension_digest(signer.suite, envelope.key_extension.extension, hashed)
    signer.verify_digest(digest, envelope.key_extension.signature)
    sender = (_address(extension.signer.address), extension.signer.fingerprint)
    message_key = p.message_key(signer.suite, session_key, extension.realm, name, sender)
    data = p.associated_data(envelope.header, envelope.key_extension.extension)
    content = p.decrypt(signer.suite, message_key, envelope.nonce, envelope.ciphertext, data)
    if "must_fail" in case:
        return
    same("sender", _address(header.sender), sender[0])
    _compare_steps(
        case["steps"],
        {
            "4": {"session_key": session_key},
            "6": {"session_key_hash": hashed, "extension": envelope.key_extension.extension, "digest": digest},
            "7": {
                "header": envelope.header,
                "associated_data": data,
                "message_key": message_key,
                "nonce": envelope.nonce,
                "content": content,
                "plaintext": AESGCM(message_key).decrypt(envelope.nonce, envelope.ciphertext, data),
                "ciphertext": envelope.ciphertext,
            },
            "9": {"sender_key": sender[1]},
            "10": {"sealed_key": sealed[0], "signature": envelope.key_extension.signature},
            "11": {"session_key": session_key},
            "12": {"session_key_hash": hashed, "key_id": name},
            "13": {"digest": digest},
            "14": {"content": content},
        },
    )


def _compare_steps(expected: dict[str, dict[str, Any]], computed: dict[str, dict[str, bytes]]) -> None:
    for step, values in computed.items():
        same(f"step {step}", expected[step], {name: value.hex() for name, value in values.items()})


def _address(address: envelope_pb2.Address) -> str:
    return f"{address.username}/{address.device_id}"


def _key_id(suite: str, extension: envelope_pb2.Extension, session_key: bytes) -> bytes:
    creator = (_address(extension.creator.address), extension.creator.fingerprint)
    users = [extension.signer.address.username, extension.recipient_username]
    return p.key_id(suite, extension.realm, creator, users, extension.session_create_time, session_key)


def _signer(record: key_info_pb2.UserKeys, fingerprint: bytes) -> p.PublicKey:
    for entry in record.entries:
        request = key_info_pb2.KeyRequest.FromString(entry.request.key_request)
        if p.sha256(request.public_key_der) == fingerprint:
            return p.PublicKey(p.SUITE_NAMES[request.suite], request.public_key_der)
    raise RefusedError("KEY_UNKNOWN")


def tokens(case: Case, shared: Shared) -> None:
    """Check a case of tokens.json: RFC 7515 by hand."""
    head, payload, signature = _split(case["token"])
    key = public_key(shared["keys"], case["key"])
    if head.get("alg") != {p.STRONG: "PS256", p.WEAK: "RS256"}[case["suite"]]:
        raise RefusedError("TOKEN_REFUSED", "MALFORMED")
    if not isinstance(payload, dict) or not isinstance(head.get("kid"), str):
        raise RefusedError("TOKEN_REFUSED", "MALFORMED")
    if (head["kid"], payload["sub"]) != (p.sha256(key.der).hex(), case["address"]):
        raise RefusedError("TOKEN_REFUSED", "WRONG_KEY" if "/" in payload["sub"] else "MALFORMED")
    try:
        key.verify_digest(p.sha256(case["token"].rpartition(".")[0].encode()), signature)
    except RefusedError as error:
        raise RefusedError("TOKEN_REFUSED", "BAD_SIGNATURE") from error
    if "must_fail" not in case:
        same("aud", case["audience"], payload["aud"])
        same("expire_time", case["expire_time"], payload["exp"] * 1_000)


def _split(token: str) -> tuple[dict[str, Any], Any, bytes]:
    parts = token.split(".")
    if len(parts) != 3 or len(token) > 4096:
        raise RefusedError("TOKEN_REFUSED", "MALFORMED")
    head, payload, signature = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts)
    return json.loads(head), json.loads(payload), signature
