import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import fingerprint, int_bytes, pae, parse, sha1, sha256
from keypost.protocol.errors import MalformedStatementError
from keypost.protocol.padding import LEAST_BYTES, pad, padded_size, unpad

pieces = st.lists(st.binary(max_size=40), max_size=5)


def test_pae_counts_and_measures_its_pieces_big_endian() -> None:
    assert pae() == bytes(8)
    assert pae(b"a", b"") == bytes(7) + b"\2" + bytes(7) + b"\1a" + bytes(8)


@given(pieces, pieces)
def test_different_pieces_are_never_encoded_alike(one: list[bytes], other: list[bytes]) -> None:
    assert (pae(*one) == pae(*other)) == (one == other)


def test_int_bytes_refuses_what_does_not_fit() -> None:
    assert int_bytes(258) == b"\0\0\0\0\0\0\1\2"
    for number in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            int_bytes(number)


@given(st.binary(max_size=100))
def test_hashes_are_the_standard_ones(data: bytes) -> None:
    assert sha256(data) == fingerprint(data) == hashlib.sha256(data).digest()
    assert sha1(data) == hashlib.sha1(data, usedforsecurity=False).digest()


def test_bytes_that_are_no_message_are_named() -> None:
    with pytest.raises(MalformedStatementError, match="KeyRequest"):
        parse(pb.KeyRequest, b"\xff\xff", "KeyRequest")


@given(st.binary(max_size=3000))
def test_padding_comes_off_again(content: bytes) -> None:
    padded = pad(content)
    assert unpad(padded) == content
    assert len(padded) >= LEAST_BYTES
    assert len(padded) == padded_size(len(padded)), "a padded size is one that padding leaves alone"


@given(st.integers(min_value=1, max_value=1 << 40))
def test_padding_adds_at_most_an_eighth_beyond_the_least(size: int) -> None:
    assert size <= padded_size(size) <= max(LEAST_BYTES, size + size // 8)
