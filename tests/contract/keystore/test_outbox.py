from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keypost.keystore import KeyStoreConflictError, KeyStoreFullError, Limits
from support.key_store import OUTGOING, Reopening

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost.keystore.values import OutgoingMessage


def outgoing(number: int, recipient: str = "bob") -> OutgoingMessage:
    return replace(OUTGOING, message_id=number.to_bytes(16, "big"), counter=number, recipient=recipient)


def test_a_message_on_its_way_keeps_id_counter_and_content(key_store: Reopening) -> None:
    key_store.store.outbox.add(OUTGOING)
    key_store.store.outbox.add(OUTGOING)
    assert key_store.again().outbox.find(OUTGOING.message_id) == OUTGOING
    key_store.store.outbox.remove(OUTGOING.message_id)
    key_store.store.outbox.remove(OUTGOING.message_id)
    assert key_store.again().outbox.find(OUTGOING.message_id) is None


def test_an_id_is_one_message(key_store: Reopening) -> None:
    key_store.store.outbox.add(OUTGOING)
    with pytest.raises(KeyStoreConflictError):
        key_store.store.outbox.add(replace(OUTGOING, content=b"other"))


def test_messages_come_in_pages_by_time(key_store: Reopening) -> None:
    for number in (3, 1, 4, 2):
        key_store.store.outbox.add(outgoing(number, "bob" if number % 2 else "carol"))
    outbox = key_store.again().outbox
    assert outbox.page() == (outgoing(1), outgoing(2, "carol"), outgoing(3), outgoing(4, "carol"))
    assert outbox.page(limit=1) == (outgoing(1),)
    assert outbox.page(after=outgoing(1).message_id) == (outgoing(2, "carol"), outgoing(3), outgoing(4, "carol"))


def test_messages_to_one_user_come_by_counter_whatever_their_ids_are(key_store: Reopening) -> None:
    for number in (3, 1, 4, 2):
        key_store.store.outbox.add(replace(outgoing(number), message_id=(9 - number).to_bytes(16, "big")))
    key_store.store.outbox.add(outgoing(20, "carol"))
    outbox = key_store.again().outbox
    assert [message.counter for message in outbox.to("bob")] == [1, 2, 3, 4]
    assert [message.counter for message in outbox.to("bob", after=1, limit=2)] == [2, 3]
    assert outbox.to("dave") == ()
    assert outbox.recipients() == ("bob", "carol")


@pytest.mark.parametrize("limits", [Limits(outbox_count=2), Limits(outbox_size=2 * len(OUTGOING.content) + 1)])
def test_a_full_outbox_refuses(limited: Callable[[Limits], Reopening], limits: Limits) -> None:
    key_store = limited(limits)
    for number in (1, 2):
        key_store.store.outbox.add(outgoing(number))
    with pytest.raises(KeyStoreFullError):
        key_store.store.outbox.add(outgoing(3))
    key_store.store.outbox.remove(outgoing(1).message_id)
    key_store.again().outbox.add(outgoing(3))


def test_a_trace_context_is_kept_and_makes_no_other_message(key_store: Reopening) -> None:
    context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    key_store.store.outbox.add(replace(OUTGOING, trace_context=context))
    key_store.store.outbox.add(OUTGOING)
    (found,) = key_store.again().outbox.page()
    assert (found, found.trace_context) == (OUTGOING, context)
