"""Vectors of the suites' algorithms, each alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from keypost.protocol import rsa
from keypost.protocol.encoding import KEY_REQUEST, REVOCATION, pae, sha256
from keypost.protocol.suites import STRONG, WEAK, Suite
from support.keys import pooled_key
from vectors.generator.files import VectorFile, flipped
from vectors.generator.hashes import key_name

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

STATEMENT = b"these bytes stand for a statement"
NONCE = bytes(range(12))


def suites_file() -> VectorFile:
    file = VectorFile(
        "suites",
        "Each algorithm of each suite alone. RSAES-OAEP is checked by opening, RSASSA-PSS by verifying; "
        "RSASSA-PKCS1-v1_5 gives the same signature each time and is checked both ways. `key`: see keys.json.",
        "Suites",
    )
    for suite in (STRONG, WEAK):
        _seals(file, suite)
        _signatures(file, suite)
        _extension_signatures(file, suite)
        _endorsements(file, suite)
        _encryptions(file, suite)
    return file


def _seals(file: VectorFile, suite: Suite) -> None:
    private_key = pooled_key(suite, 0)
    public_key = private_key.public_key()
    common = {"operation": "open", "suite": suite.name, "key": key_name(suite, 0)}
    session_key = bytes(range(suite.session_key_bytes))
    sealed = suite.seal(public_key, session_key)
    file.good(f"{suite.name}: open", **common, sealed_key=sealed.hex(), session_key=session_key.hex())
    sha1 = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 - what must not open
    labelled = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"label")
    refused = {
        "sealed to another key": suite.seal(pooled_key(suite, 1).public_key(), session_key),
        "altered": flipped(sealed, -1),
        "a byte short": sealed[:-1],
        "empty": b"",
        "OAEP with SHA-1": public_key.encrypt(session_key, sha1),
        "OAEP with a label": public_key.encrypt(session_key, labelled),
        "PKCS #1 v1.5 encryption": public_key.encrypt(session_key, padding.PKCS1v15()),
        "a session key a byte short": suite.seal(public_key, session_key[:-1]),
        "a session key a byte long": suite.seal(public_key, session_key + b"\0"),
        "an empty session key": suite.seal(public_key, b""),
    }
    for name, bad in refused.items():
        file.fails("SESSION_KEY_REFUSED", f"{suite.name}: open, {name}", **common, sealed_key=bad.hex())


def _signatures(file: VectorFile, suite: Suite) -> None:
    private_key = pooled_key(suite, 0)
    common = {
        "operation": "verify",
        "suite": suite.name,
        "key": key_name(suite, 0),
        "label": KEY_REQUEST.decode(),
        "statement": STATEMENT.hex(),
    }
    signed = pae(KEY_REQUEST, STATEMENT)
    signature = suite.sign(private_key, KEY_REQUEST, STATEMENT)
    file.good(
        f"{suite.name}: verify", **common, signed=signed.hex(), digest=sha256(signed).hex(), signature=signature.hex()
    )
    for name, bad in _wrong_signatures(suite, private_key, signed, signature).items():
        file.fails("SIGNATURE_INVALID", f"{suite.name}: verify, {name}", **common, signature=bad.hex())
    other = suite.sign(private_key, REVOCATION, STATEMENT)
    file.fails("SIGNATURE_INVALID", f"{suite.name}: verify, of another label", **common, signature=other.hex())


def _wrong_signatures(suite: Suite, private_key: RSAPrivateKey, signed: bytes, signature: bytes) -> dict[str, bytes]:
    """Return signatures of ``signed`` by the right key in wrong forms, and of the right form that are wrong."""
    sha256_ = hashes.SHA256()
    pss, pkcs1 = rsa.PSS, rsa.PKCS1
    digest = sha256(signed)
    wrong = {
        "altered": flipped(signature, -1),
        "a byte short": signature[:-1],
        "empty": b"",
        "by another key": rsa.sign_digest(pooled_key(suite, 1), digest, suite._scheme, sha256_),
        "in the form of the other suite": rsa.sign_digest(
            private_key, digest, pkcs1 if suite is STRONG else pss, sha256_
        ),
        "hashed twice": rsa.sign_digest(private_key, sha256(digest), suite._scheme, sha256_),
    }
    if suite is STRONG:
        for salt in (0, 20, 64):
            scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
            wrong[f"a salt of {salt} bytes"] = rsa.sign_digest(private_key, digest, scheme, sha256_)
        mgf1_sha1 = padding.PSS(padding.MGF1(hashes.SHA1()), 32)  # noqa: S303 - what must not verify
        wrong["MGF1 with SHA-1"] = rsa.sign_digest(private_key, digest, mgf1_sha1, sha256_)
    return wrong


def _extension_signatures(file: VectorFile, suite: Suite) -> None:
    private_key = pooled_key(suite, 0)
    session_key = bytes(range(suite.session_key_bytes))
    common = {
        "operation": "verify_extension",
        "suite": suite.name,
        "key": key_name(suite, 0),
        "extension": STATEMENT.hex(),
        "session_key": session_key.hex(),
    }
    hashed = sha256(session_key)
    signature = suite.sign_extension(private_key, STATEMENT, hashed)
    file.good(
        f"{suite.name}: verify_extension",
        **common,
        session_key_hash=hashed.hex(),
        digest=suite._extension_digest(STATEMENT, hashed).hex(),
        signature=signature.hex(),
    )
    other_key = suite.sign_extension(private_key, STATEMENT, sha256(flipped(session_key)))
    name = f"{suite.name}: verify_extension, of another session key"
    file.fails("SIGNATURE_INVALID", name, **common, signature=other_key.hex())
    other_statement = suite.sign_extension(private_key, flipped(STATEMENT), hashed)
    if suite is STRONG:
        name = f"{suite.name}: verify_extension, of another statement"
        file.fails("SIGNATURE_INVALID", name, **common, signature=other_statement.hex())
        alone = rsa.sign_digest(private_key, hashed, rsa.PSS, hashes.SHA256())
        name = f"{suite.name}: verify_extension, of the session key alone"
        file.fails("SIGNATURE_INVALID", name, **common, signature=alone.hex())
    else:
        # The source document's weakness, kept to the letter: the signature binds the session key and nothing else.
        name = f"{suite.name}: verify_extension, of another statement: the same signature"
        values = {**common, "session_key_hash": hashed.hex(), "digest": hashed.hex()}
        file.good(name, **values, signature=other_statement.hex())


def _endorsements(file: VectorFile, suite: Suite) -> None:
    parent, child = pooled_key(suite, 0), pooled_key(suite, 1)
    child_der = rsa.public_key_der(child)
    common = {
        "operation": "verify_endorsement",
        "suite": suite.name,
        "key": key_name(suite, 0),
        "key_request": STATEMENT.hex(),
        "new_public_key_der": child_der.hex(),
    }
    digest = suite.endorsement_hash(STATEMENT, child_der)
    signature = suite.sign_endorsement(parent, digest)
    name = f"{suite.name}: verify_endorsement"
    file.good(name, **common, endorsement_hash=digest.hex(), signature=signature.hex())
    other = suite.endorsement_hash(flipped(STATEMENT), rsa.public_key_der(parent))
    wrong = {
        "altered": flipped(signature),
        "by another key": suite.sign_endorsement(child, digest),
        "of another request and key": suite.sign_endorsement(parent, other),
    }
    if suite is WEAK:
        wrong["SHA-256 instead of SHA-1"] = rsa.sign_digest(parent, sha256(child_der), rsa.PKCS1, hashes.SHA256())
    else:
        wrong["as a possession"] = suite.sign(parent, KEY_REQUEST, STATEMENT)
    for what, bad in wrong.items():
        file.fails("SIGNATURE_INVALID", f"{name}, {what}", **common, signature=bad.hex())


def _encryptions(file: VectorFile, suite: Suite) -> None:
    key = bytes(range(100, 100 + suite.session_key_bytes))
    content, data = b"hello", b"associated"
    common = {
        "operation": "decrypt",
        "suite": suite.name,
        "message_key": key.hex(),
        "nonce": NONCE.hex(),
        "associated_data": data.hex(),
    }
    ciphertext = suite.encrypt(key, NONCE, content, data)
    name = f"{suite.name}: decrypt"
    plaintext = suite.pad(content)
    file.good(name, **common, content=content.hex(), plaintext=plaintext.hex(), ciphertext=ciphertext.hex())
    wrong = {
        "altered": flipped(ciphertext),
        "altered tag": flipped(ciphertext, -1),
        "a byte short": ciphertext[:-1],
        "shorter than a tag": ciphertext[:15],
        "other associated data": suite.encrypt(key, NONCE, content, data + b"x"),
        "another nonce": suite.encrypt(key, flipped(NONCE), content, data),
        "another key": suite.encrypt(flipped(key), NONCE, content, data),
    }
    for what, bad in wrong.items():
        file.fails("DECRYPTION_FAILED", f"{name}, {what}", **common, ciphertext=bad.hex())
    if suite is STRONG:
        bare = WEAK.encrypt(key, NONCE, content, data)  # the weak suite does not pad
        file.fails("CONTENT_REFUSED", f"{name}, not padded", **common, ciphertext=bare.hex())
