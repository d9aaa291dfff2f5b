from __future__ import annotations

import os

import pytest

from keypost.clock import MINUTE
from keypost.protocol.identifiers import Address
from keypost_services.ca.nonces import Nonces, Purpose
from keypost_services.runtime.errors import ServiceError
from support.clock import START

ALICE = Address("alice", "a" * 16)
SECRET = b"s" * 32


@pytest.fixture
def nonces() -> Nonces:
    return Nonces(SECRET, os.urandom)


def assert_refused(nonces: Nonces, nonce: bytes, purpose: Purpose, address: Address, now: int) -> None:
    with pytest.raises(ServiceError) as refusal:
        nonces.check(nonce, purpose, address, now)
    assert refusal.value.reason == "NONCE_EXPIRED"


def test_a_nonce_is_good_for_ten_minutes_in_every_process(nonces: Nonces) -> None:
    nonce = nonces.issue(Purpose.RENEWAL, ALICE, START)
    assert len(nonce) == 56
    Nonces(SECRET, os.urandom).check(nonce, Purpose.RENEWAL, ALICE, START + 10 * MINUTE - 1)
    assert_refused(nonces, nonce, Purpose.RENEWAL, ALICE, START + 10 * MINUTE)


@pytest.mark.parametrize("address", [Address("bob", "a" * 16), Address("alice", "b" * 16)])
def test_a_nonce_is_of_one_address(nonces: Nonces, address: Address) -> None:
    nonce = nonces.issue(Purpose.RENEWAL, ALICE, START)
    assert_refused(nonces, nonce, Purpose.RENEWAL, address, START)


def test_a_nonce_is_for_one_purpose(nonces: Nonces) -> None:
    nonce = nonces.issue(Purpose.RENEWAL, ALICE, START)
    assert_refused(nonces, nonce, Purpose.ENROLLMENT, ALICE, START)


@pytest.mark.parametrize("place", [0, 15, 16, 23, 24, 55])
def test_an_altered_nonce_is_refused(nonces: Nonces, place: int) -> None:
    nonce = bytearray(nonces.issue(Purpose.RENEWAL, ALICE, START))
    nonce[place] ^= 1
    assert_refused(nonces, bytes(nonce), Purpose.RENEWAL, ALICE, START)


@pytest.mark.parametrize("nonce", [b"", b"x", b"x" * 56, b"x" * 128])
def test_what_was_never_a_nonce_is_refused(nonces: Nonces, nonce: bytes) -> None:
    assert_refused(nonces, nonce, Purpose.RENEWAL, ALICE, START)


def test_another_secret_makes_other_nonces(nonces: Nonces) -> None:
    nonce = Nonces(b"t" * 32, os.urandom).issue(Purpose.RENEWAL, ALICE, START)
    assert_refused(nonces, nonce, Purpose.RENEWAL, ALICE, START)


def test_a_nonce_never_repeats(nonces: Nonces) -> None:
    assert nonces.issue(Purpose.RENEWAL, ALICE, START) != nonces.issue(Purpose.RENEWAL, ALICE, START)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Nonces(b"short", os.urandom)
