from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.administrators import (
    LONGEST_SIGNATURE,
    check_administrator_key,
    sign_administrators_revocation,
    verify_administrators_revocation,
)
from keypost.protocol.encoding import RESET_CANCELLATION, fingerprint, pae
from keypost.protocol.errors import KeyRefusedError, SignatureInvalidError
from keypost.protocol.revocations import Revocation, read_revocation

KEYS: list[Any] = [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())]
OTHERS: list[Any] = [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)]
STATEMENT = pb.Revocation(
    realm="example.org",
    username="alice",
    device_id="a" * 16,
    fingerprint=b"f" * 32,
    reason=pb.REVOCATION_REASON_LOST,
    revision=7,
)


def public(key: Any) -> bytes:
    encoding = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    der: bytes = key.public_key().public_bytes(*encoding)
    return der


def signed_by(key: Any) -> Revocation:
    return read_revocation(sign_administrators_revocation(STATEMENT, key))


def with_changes(revocation: Revocation, /, **changes: bytes) -> Revocation:
    signed = pb.SignedRevocation()
    signed.CopyFrom(revocation.signed)
    for name, value in changes.items():
        setattr(signed, name, value)
    return replace(revocation, signed=signed)


@pytest.mark.parametrize("key", KEYS)
def test_what_an_administrator_signed_verifies_with_the_key_of_the_certificate(key: Any) -> None:
    revocation = signed_by(check_administrator_key(key))
    assert revocation.signed.signer_fingerprint == fingerprint(public(key))
    assert len(revocation.signed.signature) <= LONGEST_SIGNATURE
    verify_administrators_revocation(revocation, public(key))


@pytest.mark.parametrize(("key", "other"), [KEYS, KEYS[::-1]])
def test_another_key_does_not_verify_whatever_it_claims_to_be(key: Any, other: Any) -> None:
    with pytest.raises(SignatureInvalidError, match="another key"):
        verify_administrators_revocation(signed_by(other), public(key))
    claimed = with_changes(signed_by(other), signer_fingerprint=fingerprint(public(key)))
    with pytest.raises(SignatureInvalidError, match="does not match"):
        verify_administrators_revocation(claimed, public(key))


SIGNED = [(key, signed_by(key)) for key in KEYS]


@pytest.mark.parametrize(("key", "revocation"), SIGNED, ids=["ed25519", "ecdsa"])
@given(data=st.data())
def test_no_byte_can_be_altered(key: Any, revocation: Revocation, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["revocation", "signature", "signer_fingerprint"]))
    value = bytearray(getattr(revocation.signed, name))
    value[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SignatureInvalidError):
        verify_administrators_revocation(with_changes(revocation, **{name: bytes(value)}), public(key))


def test_a_signature_for_another_use_is_worthless() -> None:
    key = KEYS[0]
    revocation = signed_by(key)
    other = key.sign(pae(RESET_CANCELLATION, revocation.signed.revocation))
    with pytest.raises(SignatureInvalidError):
        verify_administrators_revocation(with_changes(revocation, signature=other), public(key))


@pytest.mark.parametrize("key", OTHERS)
def test_keys_of_other_kinds_are_refused(key: Any) -> None:
    with pytest.raises(KeyRefusedError, match="Ed25519 or ECDSA P-256"):
        check_administrator_key(key)
    claimed = with_changes(signed_by(KEYS[0]), signer_fingerprint=fingerprint(public(key)))
    with pytest.raises(KeyRefusedError, match="Ed25519 or ECDSA P-256"):
        verify_administrators_revocation(claimed, public(key))
    with pytest.raises(KeyRefusedError, match="no public key"):
        verify_administrators_revocation(with_changes(claimed, signer_fingerprint=fingerprint(b"x")), b"x")
