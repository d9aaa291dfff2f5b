from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keypost.keystore import KeyStoreTamperedError, KeyStoreUnavailableError, WrongPassphraseError
from keypost.keystore.sealing import (
    Place,
    Sealer,
    new_sealer,
    open_sealer,
    xaes_decrypt,
    xaes_encrypt,
)
from keypost.keystore.unlock import Passphrase
from support.key_store import CHEAP, UNLOCK

PLACES = st.lists(st.text(max_size=3) | st.binary(max_size=3) | st.integers(), min_size=2, max_size=4).map(tuple)


@pytest.mark.parametrize(
    ("key", "aad", "ciphertext"),
    [
        (b"\x01" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (b"\x03" * 32, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
)
def test_xaes_gives_the_vectors_of_its_specification(key: bytes, aad: bytes, ciphertext: str) -> None:
    nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX"
    assert xaes_encrypt(key, nonce, b"XAES-256-GCM", aad).hex() == ciphertext
    assert xaes_decrypt(key, nonce, bytes.fromhex(ciphertext), aad) == b"XAES-256-GCM"


@given(PLACES, st.binary(max_size=64))
def test_law_what_is_sealed_opens_at_its_place(place: Place, value: bytes) -> None:
    sealer = new_sealer()
    assert sealer.open(place, sealer.seal(place, value)) == value


@given(PLACES, PLACES, st.binary(max_size=64))
def test_law_and_at_no_other_place(place: Place, other: Place, value: bytes) -> None:
    def text(parts: Place) -> list[bytes]:
        return [part if isinstance(part, bytes) else str(part).encode() for part in parts]

    assume(text(place) != text(other))
    sealer = new_sealer()
    with pytest.raises(KeyStoreTamperedError):
        sealer.open(other, sealer.seal(place, value))


@given(st.binary(max_size=64), st.integers(min_value=0), st.integers(1, 255))
def test_law_a_changed_byte_does_not_open(value: bytes, position: int, change: int) -> None:
    sealer = new_sealer()
    sealed = bytearray(sealer.seal(("table", "column"), value))
    sealed[position % len(sealed)] ^= change
    with pytest.raises(KeyStoreTamperedError) as refused:
        sealer.open(("table", "column"), bytes(sealed))
    assert refused.value.metadata == {"table": "table", "column": "column"}


@pytest.mark.parametrize("sealed", [b"", b"short", bytes(30)])
def test_what_is_too_short_does_not_open(sealed: bytes) -> None:
    with pytest.raises(KeyStoreTamperedError):
        new_sealer().open(("table", "column"), sealed)


def test_one_value_is_never_sealed_alike_twice() -> None:
    sealer = new_sealer()
    assert len({sealer.seal(("table", "column"), b"value") for _ in range(100)}) == 100


def test_the_data_key_opens_under_what_it_was_sealed_with_alone() -> None:
    sealer = new_sealer()
    parameters, sealed = sealer.seal_data_key(UNLOCK)
    value = sealer.seal(("table", "column"), b"value")
    again = open_sealer(UNLOCK, "passphrase", parameters, sealed)
    assert again.open(("table", "column"), value) == b"value"
    with pytest.raises(WrongPassphraseError):
        open_sealer(Passphrase("wrong", CHEAP), "passphrase", parameters, sealed)
    with pytest.raises(WrongPassphraseError):
        open_sealer(UNLOCK, "passphrase", parameters, sealed[:20])


def test_the_parameters_of_the_data_key_are_bound_to_it() -> None:
    sealer = new_sealer()
    parameters, sealed = sealer.seal_data_key(UNLOCK)
    with pytest.raises(WrongPassphraseError):
        open_sealer(UNLOCK, "passphrase", parameters + " ", sealed)


def test_a_closed_sealer_has_no_key() -> None:
    sealer = Sealer(bytearray(range(32)))
    sealer.close()
    assert sealer._data_key is None
    with pytest.raises(KeyStoreUnavailableError):
        sealer.seal(("table", "column"), b"value")
