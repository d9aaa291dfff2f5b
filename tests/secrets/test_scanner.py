"""The scanner can fail: each kind of secret is found in each form, in each surrounding, whole and in pieces."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization

from keypost.protocol.suites import STRONG, WEAK
from support.keys import pooled_key
from support.secret_scan import PIECE, Finding, Place, Scanner, Secret, encodings, of_content, of_rsa_key, of_token

if TYPE_CHECKING:
    from keypost.protocol.suites import Suite

PLANTED = secrets.token_bytes(32)
TEXT = f"{secrets.token_urlsafe(32)} grüße".encode()
NOISE = secrets.token_bytes(4096)


@pytest.mark.parametrize("shift", range(9))
@pytest.mark.parametrize("secret", [PLANTED, TEXT], ids=["bytes", "text"])
def test_every_form_is_found_wherever_it_stands(secret: bytes, shift: int) -> None:
    scanner = Scanner([Secret("planted", secret)])
    for form, text in encodings(secret).items():
        found = scanner.find(Place("place", NOISE[: 64 + shift] + text + NOISE[64:]))
        assert Finding("place", "planted", form) in found, form


@pytest.mark.parametrize("shift", range(8))
def test_a_piece_is_found_and_a_shorter_one_is_chance(shift: int) -> None:
    scanner = Scanner([Secret("planted", PLANTED)])
    for start in range(len(PLANTED) - PIECE + 1):
        piece = PLANTED[start : start + PIECE]
        assert scanner.astray([Place("place", NOISE[:shift] + piece)])
    assert not scanner.astray([Place("place", PLANTED[:7] + NOISE[:9] + PLANTED[7:14])])


def test_noise_holds_nothing() -> None:
    assert not Scanner([Secret("planted", PLANTED)]).astray([Place("place", NOISE), Place("empty", b"")])


def test_what_is_at_home_is_found_and_is_not_astray() -> None:
    scanner = Scanner([Secret("planted", PLANTED, frozenset({"home"}))])
    home, abroad = Place("home", PLANTED), Place("abroad", PLANTED)
    assert scanner.find(home)
    assert {finding.place for finding in scanner.astray([home, abroad])} == {"abroad"}


def test_a_secret_that_chance_could_write_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        Scanner([Secret("planted", bytes(PIECE))])


@pytest.mark.parametrize("suite", [STRONG, WEAK], ids=str)
@pytest.mark.parametrize("encoding", [serialization.Encoding.DER, serialization.Encoding.PEM])
@pytest.mark.parametrize("shape", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL])
def test_a_private_key_is_found_in_every_file_format(
    suite: Suite, encoding: serialization.Encoding, shape: serialization.PrivateFormat
) -> None:
    key = pooled_key(suite, 0)
    scanner = Scanner(of_rsa_key("private key", key))
    written = key.private_bytes(encoding, shape, serialization.NoEncryption())
    surroundings = [written, json.dumps(written.decode("latin-1")).encode(), repr(written).encode()]
    if encoding is serialization.Encoding.DER:
        surroundings += [base64.b64encode(written), written.hex().encode()]
    for text in surroundings:
        assert scanner.astray([Place("place", b"x" + text)])


@pytest.mark.parametrize("name", ["d", "p", "q", "dmp1", "dmq1", "iqmp"])
@pytest.mark.parametrize("form", ["{}", "{:x}", "{:X}"])
def test_each_number_of_a_private_key_is_found(name: str, form: str) -> None:
    key = pooled_key(STRONG, 0)
    number = getattr(key.private_numbers(), name)
    text = form.format(number).encode()
    assert Scanner(of_rsa_key("private key", key)).astray([Place("place", text), Place("place", text[1:])])


def test_a_public_key_is_no_secret() -> None:
    key = pooled_key(STRONG, 0)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert not Scanner(of_rsa_key("private key", key)).astray([Place("place", public)])


def test_of_a_token_the_signature_is_the_secret() -> None:
    token = f"eyJhbGciOiJQUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.{secrets.token_urlsafe(384)}"
    scanner = Scanner(of_token(token))
    assert scanner.astray([Place("place", f"Bearer {token}".encode())])
    assert not scanner.astray([Place("place", token.rpartition(".")[0].encode())])


def test_every_page_of_a_long_content_is_found() -> None:
    content = secrets.token_bytes(300_000)
    scanner = Scanner(of_content("file", content))
    for start in range(0, len(content) - 4096 - 64, 4096):
        assert scanner.astray([Place("place", content[start : start + 4096 + 64])])


def test_what_is_found_is_not_shown() -> None:
    scanner = Scanner([Secret("planted", TEXT)])
    place = Place("place", TEXT)
    shown = repr((scanner.secrets, place, scanner.astray([place])))
    assert not scanner.astray([Place("shown", shown.encode())])


def test_the_output_of_another_process_is_a_place_too() -> None:
    said = subprocess.run(
        [sys.executable, "-c", f"import sys; print({TEXT!r}); print({PLANTED!r}, file=sys.stderr)"],
        capture_output=True,
        check=True,
    )
    scanner = Scanner([Secret("text", TEXT), Secret("key", PLANTED)])
    found = scanner.astray([Place("stdout", said.stdout), Place("stderr", said.stderr)])
    assert {(one.place, one.kind) for one in found} == {("stdout", "text"), ("stderr", "key")}
