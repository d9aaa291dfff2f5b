"""The suites; for the weak one, that it is the source document's to the letter."""

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keypost.protocol.encoding import EXTENSION, pae
from keypost.protocol.errors import (
    ContentRefusedError,
    DecryptionError,
    KeyRefusedError,
    SessionKeyRefusedError,
    SignatureInvalidError,
    SuiteUnknownError,
)
from keypost.protocol.rsa import (
    counted,
    load_public_key,
    private_key_from_der,
    private_key_to_der,
    public_key_der,
    unsealed_private_key_from_der,
)
from keypost.protocol.suites import STRONG, SUITES, WEAK, Suite, suite_for, suite_named
from support.keys import pooled_key

NONCE = bytes(12)
both = pytest.mark.parametrize("suite", SUITES, ids=str)


def der_of(private_key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return private_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@both
def test_a_suite_is_found_by_number_and_by_name(suite: Suite) -> None:
    assert suite_for(suite.id) is suite_named(suite.name) is suite
    assert repr(suite) == suite.name


def test_unknown_suites_are_refused() -> None:
    for number in (0, 3):
        with pytest.raises(SuiteUnknownError):
            suite_for(number)
    with pytest.raises(SuiteUnknownError, match="RSA3072_AES256"):
        suite_named("RSA512_DES")


@both
def test_a_session_key_is_opened_by_its_key_alone(suite: Suite) -> None:
    own, other = pooled_key(suite, 0), pooled_key(suite, 1)
    session_key = bytes(range(suite.session_key_bytes))
    sealed = suite.seal(own.public_key(), session_key)
    assert len(sealed) == suite.sealed_key_bytes
    assert suite.check_session_key(suite.open(own, sealed)) == session_key
    for key, ciphertext in ((other, sealed), (own, sealed[:-1]), (own, b""), (own, bytes(len(sealed)))):
        with pytest.raises(SessionKeyRefusedError):
            suite.open(key, ciphertext)


@both
def test_a_session_key_has_exactly_its_length(suite: Suite) -> None:
    for length in (0, suite.session_key_bytes - 1, suite.session_key_bytes + 1):
        with pytest.raises(SessionKeyRefusedError):
            suite.check_session_key(bytes(length))


@both
def test_statements_are_signed_under_a_label(suite: Suite) -> None:
    own, other = pooled_key(suite, 0), pooled_key(suite, 1)
    signature = suite.sign(own, b"label", b"statement")
    suite.verify(own.public_key(), b"label", b"statement", signature)
    for key, label, statement in ((other, b"label", b"statement"), (own, b"labe", b"lstatement"), (own, b"label", b"")):
        with pytest.raises(SignatureInvalidError):
            suite.verify(key.public_key(), label, statement, signature)


@both
def test_messages_open_only_as_they_were_sealed(suite: Suite) -> None:
    key = bytes(suite.session_key_bytes)
    ciphertext = suite.encrypt(key, NONCE, b"content", b"header")
    assert suite.decrypt(key, NONCE, ciphertext, b"header") == b"content"
    altered = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    for nonce, data, associated in (
        (b"\1" * 12, ciphertext, b"header"),
        (NONCE, altered, b"header"),
        (NONCE, ciphertext, b"other"),
        (NONCE, b"", b"header"),
    ):
        with pytest.raises(DecryptionError):
            suite.decrypt(key, nonce, data, associated)


def test_the_strong_suite_hides_lengths_and_checks_the_padding() -> None:
    key = bytes(32)
    sizes = {len(STRONG.encrypt(key, NONCE, bytes(size), b"")) for size in range(0, 240, 7)}
    assert sizes == {256 + 16}
    with pytest.raises(ContentRefusedError):
        STRONG.decrypt(key, NONCE, AESGCM(key).encrypt(NONCE, b"unpadded", b""), b"")


def test_the_strong_message_key_depends_on_all_of_its_context() -> None:
    context = [b"realm", b"suite", b"key id", b"address", b"fingerprint"]
    keys = {STRONG.message_key(bytes(32), *context)}
    for index in range(len(context)):
        keys.add(STRONG.message_key(bytes(32), *(b"x" if at == index else piece for at, piece in enumerate(context))))
    assert len(keys) == len(context) + 1
    assert {len(key) for key in keys} == {32}


def test_weak_suite_is_rsa_1024_and_aes_128() -> None:
    assert (WEAK.key_bits, WEAK.session_key_bytes) == (1024, 16)
    assert WEAK.generate_private_key().key_size == 1024
    assert WEAK.message_key(b"session key 16 b", b"anything") == b"session key 16 b"
    ciphertext = WEAK.encrypt(b"session key 16 b", NONCE, b"content", b"header")
    assert AESGCM(b"session key 16 b").decrypt(NONCE, ciphertext, b"header") == b"content"


def test_weak_suite_signs_the_sha256_of_the_session_key_and_nothing_else() -> None:
    own = pooled_key(WEAK, 0)
    session_key = bytes(range(16))
    signature = WEAK.sign_extension(own, b"a statement that does not matter", hashlib.sha256(session_key).digest())
    own.public_key().verify(signature, session_key, padding.PKCS1v15(), hashes.SHA256())
    WEAK.verify_extension(own.public_key(), b"another", hashlib.sha256(session_key).digest(), signature)


def test_weak_suite_endorses_the_sha1_of_the_new_public_key() -> None:
    own, new = pooled_key(WEAK, 0), public_key_der(pooled_key(WEAK, 1))
    digest = WEAK.endorsement_hash(b"a request that does not matter", new)
    assert digest == hashlib.sha1(new, usedforsecurity=False).digest()
    signature = WEAK.sign_endorsement(own, digest)
    own.public_key().verify(signature, new, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303
    with pytest.raises(SignatureInvalidError):
        WEAK.verify_endorsement(own.public_key(), WEAK.endorsement_hash(b"", new + b"x"), signature)


def test_strong_suite_signs_statement_and_key_with_pss_and_a_salt_of_32() -> None:
    own = pooled_key(STRONG, 0)
    digest = hashlib.sha256(b"session key").digest()
    signature = STRONG.sign_extension(own, b"statement", digest)
    signed = pae(EXTENSION, b"statement", digest)
    salted = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    own.public_key().verify(signature, signed, salted, hashes.SHA256())
    with pytest.raises(SignatureInvalidError):
        STRONG.verify_extension(own.public_key(), b"another statement", digest, signature)
    for salt in (0, 20, 222):
        other = own.sign(signed, padding.PSS(padding.MGF1(hashes.SHA256()), salt), hashes.SHA256())
        with pytest.raises(SignatureInvalidError):
            STRONG.verify_extension(own.public_key(), b"statement", digest, other)


@both
def test_a_signature_of_one_scheme_is_none_of_the_other(suite: Suite) -> None:
    own = pooled_key(suite, 0)
    scheme = padding.PKCS1v15() if suite is STRONG else padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    signature = own.sign(pae(b"label", b"statement"), scheme, hashes.SHA256())
    with pytest.raises(SignatureInvalidError):
        suite.verify(own.public_key(), b"label", b"statement", signature)
    with pytest.raises(InvalidSignature):
        own.public_key().verify(suite.sign(own, b"label", b""), pae(b"label", b""), scheme, hashes.SHA256())


@both
def test_a_public_key_is_one_of_its_suite(suite: Suite) -> None:
    der = public_key_der(pooled_key(suite, 0))
    assert suite.load_public_key(der) == pooled_key(suite, 0).public_key()
    other = public_key_der(pooled_key(WEAK if suite is STRONG else STRONG, 0))
    refused = [b"", b"no key", der + b"\0", other, der_of(ec.generate_private_key(ec.SECP256R1()))]
    for bad in refused:
        with pytest.raises(KeyRefusedError):
            suite.load_public_key(bad)


def test_the_exponent_is_65537() -> None:
    numbers = pooled_key(WEAK, 0).public_key().public_numbers()
    odd = rsa.RSAPublicNumbers(3, numbers.n).public_key()
    der = odd.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(KeyRefusedError, match="exponent"):
        load_public_key(der, 1024)


def test_one_key_has_one_encoding() -> None:
    der = public_key_der(pooled_key(WEAK, 0))
    # The same structure with the outer length written in one byte more than needed.
    assert der[:2] == b"\x30\x81"
    with pytest.raises(KeyRefusedError):
        load_public_key(b"\x30\x82\x00" + der[2:], 1024)


def test_private_keys_are_kept_as_pkcs8() -> None:
    own = pooled_key(STRONG, 0)
    assert private_key_from_der(private_key_to_der(own)).private_numbers() == own.private_numbers()
    ed = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    pkcs8 = ed.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for bad in (b"", b"no key", pkcs8):
        for load in (private_key_from_der, unsealed_private_key_from_der):
            with pytest.raises(KeyRefusedError):
                load(bad)


def test_only_what_the_key_store_unsealed_is_loaded_without_validation() -> None:
    numbers = pooled_key(WEAK, 0).private_numbers()
    altered = rsa.RSAPrivateNumbers(
        numbers.p, numbers.q, numbers.d + 2, numbers.dmp1, numbers.dmq1, numbers.iqmp, numbers.public_numbers
    )
    der = private_key_to_der(altered.private_key(unsafe_skip_rsa_key_validation=True))
    with pytest.raises(KeyRefusedError):
        private_key_from_der(der)
    assert unsealed_private_key_from_der(der).private_numbers() == altered


def test_rsa_operations_are_counted_by_kind_within_the_block() -> None:
    own = pooled_key(WEAK, 0)
    sealed = WEAK.seal(own.public_key(), bytes(16))
    with counted() as operations:
        WEAK.open(own, sealed)
        with counted() as inner:
            WEAK.verify(own.public_key(), b"", b"", WEAK.sign(own, b"", b""))
    assert inner.by_kind == {"sign": 1, "verify": 1}
    WEAK.seal(own.public_key(), bytes(16))
    assert operations.by_kind == {"open": 1, "sign": 1, "verify": 1}
    assert operations.total == 3
