import pytest

from keypost.protocol.errors import KeyRefusedError, SignatureInvalidError
from keypost.protocol.rsa import public_key_der
from keypost.protocol.signing import load_public_key, sign_statement, verify_statement
from keypost.protocol.suites import WEAK
from support.keys import pooled_key
from support.realm import seeded_signer


def test_a_statement_is_signed_under_its_label() -> None:
    signer = seeded_signer(1)
    signature = sign_statement(signer, b"label", b"statement")
    assert len(signature) == 64
    verify_statement(signer.public_key_der, b"label", b"statement", signature)
    for label, statement in ((b"labe", b"lstatement"), (b"label", b"statemen"), (b"other", b"statement")):
        with pytest.raises(SignatureInvalidError):
            verify_statement(signer.public_key_der, label, statement, signature)
    with pytest.raises(SignatureInvalidError):
        verify_statement(seeded_signer(2).public_key_der, b"label", b"statement", signature)


def test_a_key_that_is_not_ed25519_is_refused() -> None:
    for der in (b"", b"no key", public_key_der(pooled_key(WEAK, 0))):
        with pytest.raises(KeyRefusedError):
            load_public_key(der)
