from __future__ import annotations

import pytest

from keypost.keystore import KeyStore, KeyStoreUnavailableError
from keypost.keystore.values import ReceivedMark
from support.key_store import BOB, BOTH, MESSAGE, NOW, OUTGOING, SESSION, Reopening, message, unhandled


class CrashError(Exception):
    """Stands for whatever fails."""


def receive(store: KeyStore, number: int) -> None:
    store.counters.mark_received(BOB, BOTH, number, message(number).message_id, NOW)
    store.inbox.add(message(number))


def test_all_parts_are_written_together(key_store: Reopening) -> None:
    with key_store.store.transaction():
        key_store.store.sessions.add(SESSION)
        receive(key_store.store, 1)
    store = key_store.again()
    assert store.sessions.find(BOTH, SESSION.key_id) == SESSION
    assert store.counters.is_received(BOB, message(1).message_id)
    assert len(unhandled(store)) == 1


def test_or_not_at_all(key_store: Reopening) -> None:
    with pytest.raises(CrashError), key_store.store.transaction():  # noqa: PT012  # the block is what is tested
        key_store.store.sessions.add(SESSION)
        receive(key_store.store, 1)
        key_store.store.counters.next_send(BOTH)
        key_store.store.outbox.add(OUTGOING)
        raise CrashError
    store = key_store.again()
    assert store.sessions.find(BOTH, SESSION.key_id) is None
    assert not store.counters.is_received(BOB, message(1).message_id)
    assert len(unhandled(store)) == 0
    assert store.outbox.page() == ()
    assert store.counters.next_send(BOTH) == 1


def test_a_block_within_a_block_can_fail_alone(key_store: Reopening) -> None:
    with key_store.store.transaction():
        receive(key_store.store, 1)
        with pytest.raises(CrashError), key_store.store.transaction():  # noqa: PT012
            receive(key_store.store, 2)
            raise CrashError
        receive(key_store.store, 3)
    store = key_store.again()
    assert [store.counters.is_received(BOB, message(number).message_id) for number in (1, 2, 3)] == [True, False, True]


def test_a_block_within_a_block_goes_with_the_outer_one(key_store: Reopening) -> None:
    with pytest.raises(CrashError), key_store.store.transaction():  # noqa: PT012
        with key_store.store.transaction():
            receive(key_store.store, 1)
        raise CrashError
    assert len(unhandled(key_store.again())) == 0


def test_a_refusal_within_a_block_leaves_the_block_usable(key_store: Reopening) -> None:
    with key_store.store.transaction():
        receive(key_store.store, 1)
        with pytest.raises(Exception, match="already"):
            receive(key_store.store, 1)
        receive(key_store.store, 2)
    assert len(unhandled(key_store.again())) == 2


def test_a_closed_store_says_so(key_store: Reopening) -> None:
    key_store.store.close()
    key_store.store.close()
    with pytest.raises(KeyStoreUnavailableError):
        key_store.store.profile.read()
    with pytest.raises(KeyStoreUnavailableError):
        key_store.store.inbox.add(MESSAGE)
    with pytest.raises(KeyStoreUnavailableError), key_store.store.transaction():
        pass


def test_closing_within_a_block_undoes_it(key_store: Reopening) -> None:
    if key_store.folder is None:
        pytest.skip("what is in memory ends with its store")
    with pytest.raises(KeyStoreUnavailableError), key_store.store.transaction():  # noqa: PT012
        receive(key_store.store, 1)
        key_store.store.close()
    assert len(unhandled(key_store.again())) == 0


def test_the_first_mark_of_a_new_block_sees_the_last_one(key_store: Reopening) -> None:
    receive(key_store.store, 1)
    with key_store.store.transaction():
        assert key_store.store.counters.mark_received(BOB, BOTH, 2, b"\x07" * 16, NOW) == ReceivedMark(1, 0, None)
