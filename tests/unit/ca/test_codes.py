from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keypost_services.ca.codes import CodeMalformedError, hash_code, new_code, read_code, realm_hash


def test_a_code_has_128_bits_in_26_characters() -> None:
    assert new_code(lambda size: b"\x00" * size) == "0" * 26
    assert new_code(lambda size: b"\xff" * size) == "7" + "Z" * 25


@given(st.binary(min_size=16, max_size=16))
def test_a_code_reads_as_itself(random: bytes) -> None:
    code = new_code(lambda _size: random)
    assert read_code(code) == code
    assert read_code(f" {code[:5].lower()}-{code[5:].lower()} ") == code


def test_mistaken_letters_are_read_as_digits() -> None:
    assert read_code("0il" + "o" * 23) == "011" + "0" * 23


@pytest.mark.parametrize("text", ["", "0" * 25, "0" * 27, "8" + "0" * 25, "U" + "0" * 25, "٣" * 26, "0" * 25 + "ß"])
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(CodeMalformedError):
        read_code(text)


def test_a_hash_binds_code_username_realm_and_root_keys() -> None:
    code, realm = new_code(os.urandom), realm_hash("example.org", [b"root"])
    hashes = [
        hash_code(code, "alice", realm),
        hash_code(code, "bob", realm),
        hash_code(new_code(os.urandom), "alice", realm),
        hash_code(code, "alice", realm_hash("example.net", [b"root"])),
        hash_code(code, "alice", realm_hash("example.org", [b"other"])),
        hash_code(code, "alice", realm_hash("example.org", [b"root", b"other"])),
    ]
    assert len(set(hashes)) == len(hashes)
    assert {len(made) for made in hashes} == {32}


def test_the_order_of_root_keys_does_not_matter() -> None:
    assert realm_hash("example.org", [b"a", b"b"]) == realm_hash("example.org", [b"b", b"a"])
