from __future__ import annotations

from dataclasses import replace

import pytest

from keypost.keystore import KeyStoreConflictError
from support.key_store import ALICE, BOB, MESSAGE, NOW, Reopening, message, unhandled


def test_messages_are_handed_out_in_order_until_handled(key_store: Reopening) -> None:
    sequences = [key_store.store.inbox.add(message(number)) for number in (3, 1, 2)]
    assert sequences == sorted(sequences)
    for number, sequence in zip((3, 1, 2), sequences, strict=True):
        assert key_store.again().inbox.next_unhandled() == replace(message(number), sequence=sequence, attempts=1)
        key_store.store.inbox.set_handled(sequence)
        key_store.store.inbox.set_handled(sequence)
    assert key_store.again().inbox.next_unhandled() is None


def test_what_was_handed_out_and_not_handled_comes_again_marked(key_store: Reopening) -> None:
    sequence = key_store.store.inbox.add(MESSAGE)
    first = key_store.store.inbox.next_unhandled()
    second = key_store.again().inbox.next_unhandled()
    assert first == replace(MESSAGE, sequence=sequence, attempts=1)
    assert second == replace(MESSAGE, sequence=sequence, attempts=2, redelivered=True)


def test_a_reader_can_go_on_after_one_that_is_being_handled(key_store: Reopening) -> None:
    first, second = (key_store.store.inbox.add(message(number)) for number in (1, 2))
    handed = key_store.store.inbox.next_unhandled(after=first)
    assert handed is not None
    assert handed.sequence == second
    assert key_store.store.inbox.next_unhandled(after=second) is None


def test_a_message_is_there_once(key_store: Reopening) -> None:
    key_store.store.inbox.add(MESSAGE)
    with pytest.raises(KeyStoreConflictError):
        key_store.store.inbox.add(replace(MESSAGE, content=b"other"))
    key_store.store.inbox.add(replace(MESSAGE, sender=ALICE))
    assert len(unhandled(key_store.again())) == 2


def test_a_message_is_found_without_being_handed_out(key_store: Reopening) -> None:
    sequence = key_store.store.inbox.add(MESSAGE)
    expected = replace(MESSAGE, sequence=sequence)
    assert key_store.again().inbox.find(BOB, MESSAGE.message_id) == expected
    assert key_store.store.inbox.find(ALICE, MESSAGE.message_id) is None
    assert key_store.store.inbox.next_unhandled() == replace(expected, attempts=1)


def test_what_is_set_aside_is_kept_and_comes_again_once_it_is_brought_back(key_store: Reopening) -> None:
    first, second = (key_store.store.inbox.add(message(number)) for number in (1, 2))
    for _ in range(3):
        key_store.store.inbox.next_unhandled()
    key_store.store.inbox.set_aside(first)
    assert [one.sequence for one in unhandled(key_store.again())] == [second]
    (kept,) = key_store.store.inbox.page_set_aside()
    assert (kept.sequence, kept.attempts, kept.content) == (first, 3, message(1).content)
    assert key_store.store.inbox.page_set_aside(after=first) == ()
    assert key_store.again().inbox.bring_back() == 1
    assert key_store.again().inbox.page_set_aside() == ()
    again = key_store.store.inbox.next_unhandled()
    assert again == replace(message(1), sequence=first, attempts=1, redelivered=True)
    assert key_store.store.inbox.bring_back() == 0


def test_what_is_handled_after_all_is_set_aside_no_longer(key_store: Reopening) -> None:
    sequence = key_store.store.inbox.add(MESSAGE)
    key_store.store.inbox.set_aside(sequence)
    key_store.store.inbox.set_handled(sequence)
    assert key_store.again().inbox.page_set_aside() == ()
    assert key_store.store.inbox.bring_back() == 0


def test_pages_of_what_is_set_aside_are_bounded(key_store: Reopening) -> None:
    for number in range(3):
        key_store.store.inbox.set_aside(key_store.store.inbox.add(message(number)))
    assert len(key_store.store.inbox.page_set_aside(limit=2)) == 2


def test_whether_the_sender_was_verified_is_kept(key_store: Reopening) -> None:
    for number in (1, 2):
        key_store.store.inbox.add(replace(message(number), verified=number == 1))
    assert [one.verified for one in unhandled(key_store.again())] == [True, False]


def test_handled_messages_are_forgotten_and_others_are_not(key_store: Reopening) -> None:
    first, second = (key_store.store.inbox.add(message(number)) for number in (1, 2))
    key_store.store.inbox.set_handled(first)
    for sequence in (first, second):
        key_store.store.inbox.forget(sequence)
    inbox = key_store.again().inbox
    assert inbox.find(BOB, message(1).message_id) is None
    assert inbox.find(BOB, message(2).message_id) is not None


def test_sequences_are_never_used_again(key_store: Reopening) -> None:
    first = key_store.store.inbox.add(message(1))
    key_store.store.inbox.set_handled(first)
    key_store.store.inbox.forget(first)
    assert key_store.again().inbox.add(message(2)) > first


def test_pruning_takes_handled_messages_alone(key_store: Reopening) -> None:
    first, _ = (key_store.store.inbox.add(message(number)) for number in (1, 2))
    key_store.store.inbox.set_handled(first)
    key_store.store.prune(NOW + 1)
    assert key_store.again().inbox.find(BOB, message(1).message_id) is not None
    key_store.store.prune(NOW + 1000)
    inbox = key_store.again().inbox
    assert inbox.find(BOB, message(1).message_id) is None
    assert inbox.next_unhandled() is not None
