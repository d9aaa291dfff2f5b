from __future__ import annotations

import pytest

from keypost.keystore import KeyStore, KeyStoreConflictError
from keypost.keystore.values import KeyPair, KeyPairState
from support.key_store import NOW, Reopening

ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))


def add(store: KeyStore, fingerprint: bytes) -> None:
    store.key_pairs.add_pending(fingerprint, 2, b"private " + fingerprint, b"request")


def pair(fingerprint: bytes, state: KeyPairState, replaced_time: int | None = None) -> KeyPair:
    return KeyPair(fingerprint, 2, b"private " + fingerprint, b"request", state, replaced_time)


def test_a_pending_pair_is_there_before_the_ca_is_asked(key_store: Reopening) -> None:
    add(key_store.store, ONE)
    add(key_store.store, ONE)
    key_pairs = key_store.again().key_pairs
    assert key_pairs.pending() == key_pairs.find(ONE) == pair(ONE, KeyPairState.PENDING)
    assert key_pairs.current() is None
    assert key_pairs.find(TWO) is None
    assert key_pairs.replaced() == ()


def test_the_request_of_a_pending_pair_can_change(key_store: Reopening) -> None:
    add(key_store.store, ONE)
    key_store.store.key_pairs.set_key_request(ONE, b"request with another nonce")
    found = key_store.again().key_pairs.pending()
    assert found is not None
    assert found.key_request == b"request with another nonce"
    with pytest.raises(KeyStoreConflictError):
        key_store.store.key_pairs.set_key_request(TWO, b"request")


def test_promotion_replaces_the_current_pair(key_store: Reopening) -> None:
    for number, fingerprint in enumerate((ONE, TWO, THREE)):
        add(key_store.store, fingerprint)
        key_store.store.key_pairs.promote(fingerprint, NOW + number)
        key_store.store.key_pairs.promote(fingerprint, NOW + number + 50)
    key_pairs = key_store.again().key_pairs
    assert key_pairs.current() == pair(THREE, KeyPairState.CURRENT)
    assert key_pairs.pending() is None
    assert key_pairs.replaced() == (
        pair(TWO, KeyPairState.REPLACED, NOW + 2),
        pair(ONE, KeyPairState.REPLACED, NOW + 1),
    )


def test_only_one_pair_is_pending(key_store: Reopening) -> None:
    add(key_store.store, ONE)
    with pytest.raises(KeyStoreConflictError):
        add(key_store.store, TWO)
    key_store.store.key_pairs.destroy(ONE)
    add(key_store.store, TWO)


def test_a_pair_that_was_promoted_does_not_become_pending_again(key_store: Reopening) -> None:
    add(key_store.store, ONE)
    key_store.store.key_pairs.promote(ONE, NOW)
    with pytest.raises(KeyStoreConflictError):
        add(key_store.store, ONE)


@pytest.mark.parametrize("known", [True, False])
def test_only_a_pending_pair_is_promoted(key_store: Reopening, *, known: bool) -> None:
    if known:
        for fingerprint in (ONE, TWO):
            add(key_store.store, fingerprint)
            key_store.store.key_pairs.promote(fingerprint, NOW)
    with pytest.raises(KeyStoreConflictError):
        key_store.store.key_pairs.promote(ONE, NOW)


def test_a_replaced_pair_is_destroyed_and_the_current_one_is_not(key_store: Reopening) -> None:
    for fingerprint in (ONE, TWO):
        add(key_store.store, fingerprint)
        key_store.store.key_pairs.promote(fingerprint, NOW)
    key_store.store.key_pairs.destroy(ONE)
    key_store.store.key_pairs.destroy(ONE)
    with pytest.raises(KeyStoreConflictError):
        key_store.store.key_pairs.destroy(TWO)
    key_pairs = key_store.again().key_pairs
    assert key_pairs.find(ONE) is None
    assert key_pairs.current() == pair(TWO, KeyPairState.CURRENT)


def test_a_device_that_begins_anew_keeps_its_pairs_to_open_what_was_sealed_to_them(key_store: Reopening) -> None:
    for fingerprint in (ONE, TWO):
        add(key_store.store, fingerprint)
        key_store.store.key_pairs.promote(fingerprint, NOW)
    add(key_store.store, THREE)
    key_store.store.key_pairs.retire(NOW + 1)
    key_pairs = key_store.again().key_pairs
    assert key_pairs.current() is key_pairs.pending() is None
    times = {one.fingerprint: one.replaced_time for one in key_pairs.replaced()}
    assert times == {ONE: NOW, TWO: NOW + 1, THREE: NOW + 1}
