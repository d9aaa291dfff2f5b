"""What becomes of the messages of one conversation, told: to who waits, to the application and to the observer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

from keypost.client.context import short
from keypost.client.key_requests import warn_if_weak
from keypost.client.results import Sent

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost.client.context import Context
    from keypost.client.outgoing import Item, Tidying
    from keypost.client.sealing import Sealed, Sealing
    from keypost.errors import KeypostError
    from keypost.keystore.values import OutgoingMessage
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import KeyRecord


class Outcomes:
    """Tells what became of each message, and has what is over with taken out of the outbox.

    Args:
        recipient: The other user.
        context: What all parts share.
        tidying: Takes out of the outbox what delivery has, or has refused for good.
        address: Returns the own address.
        told: The ids of the messages of which the application was told that they wait.
    """

    def __init__(
        self, recipient: str, context: Context, tidying: Tidying, address: Callable[[], Address], told: set[bytes]
    ) -> None:
        self._recipient = recipient
        self._context = context
        self._tidying = tidying
        self._address = address
        self._told = told

    def stored(self, item: Item, accept_time: int) -> None:
        """Take a message that delivery has out of the outbox, and tell who waits.

        Args:
            item: The message.
            accept_time: Since when delivery has it, Unix milliseconds.
        """
        message, sealed = item.begun, item.sealed_now
        self._forget(item)
        if item.listener is not None and not item.listener.done():
            item.listener.set_result(_sent(message, sealed, accept_time))

    def refuse(self, item: Item, error: KeypostError) -> None:
        """Take a message that was refused for good out of the outbox, and tell that it goes out no more."""
        self._forget(item)
        self.give_up(item, error)

    def give_up(self, item: Item, error: KeypostError) -> None:
        """Tell that a message goes out no more: who waits or, where nobody does, the application."""
        if item.listener is None:
            self._context.tell(
                "error",
                error.reason,
                f"a message that waited was given up: {error}",
                recipient=self._recipient,
                message_id=_name(item.begun),
            )
        self.fail(item, error)

    def stop_waiting(self, item: Item, error: KeypostError) -> None:
        """Tell who waits why nothing came of a message yet; and the application, if it goes out later."""
        self.fail(item, error)
        if item.keep and item.message is not None:
            self._tell_kept(item.message, error)

    def fail(self, item: Item, error: KeypostError) -> None:
        """Tell who waits for a message an error, if anybody does."""
        listener, item.listener = item.listener, None
        if listener is not None and not listener.done():
            listener.set_exception(error)

    def _forget(self, item: Item) -> None:
        message_id = item.begun.message_id
        self._told.discard(message_id)
        if item.keep:
            self._tidying.add(message_id)

    def _tell_kept(self, message: OutgoingMessage, error: KeypostError) -> None:
        if message.message_id in self._told:
            return
        self._told.add(message.message_id)
        sentence = f"a message to {message.recipient} stays in the outbox and goes out later: {error}"
        self._context.tell("waiting", error.reason, sentence, recipient=message.recipient, message_id=_name(message))

    def show_look_up(self, record: KeyRecord) -> None:
        """Show step 2 to the observer."""
        me, context = self._address(), self._context
        context.negotiation(2, me, username=record.username, revision=record.revision, keys=len(record.keys))

    def show_sealed(self, sealed: Sealed, sealing: Sealing) -> None:
        """Show the steps of sealing to the observer."""
        for step in sealed.steps:
            self._context.show(step)
        if sealed.new_session:
            warn_if_weak(self._context, sealing.own.suite)

    def show_handed_over(self, item: Item) -> None:
        """Show step 7 to the observer."""
        message, sealed = item.begun, item.sealed_now
        self._context.negotiation(
            7,
            self._address(),
            recipient=message.recipient,
            counter=message.counter,
            key_id=short(sealed.key_id),
            envelope_bytes=sealed.size,
            ciphertext_bytes=len(sealed.envelope.ciphertext),
            rsa_operations=sum(sealed.rsa_operations.values()),
        )


class Drained:
    """Who waits until all is gone up to a counter."""

    def __init__(self) -> None:
        self._gone = 0
        """The counter up to which all is gone, as far as is known."""
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def wait(self, up_to: int) -> asyncio.Future[None] | None:
        """Return what is done when all is gone up to a counter; None if it is."""
        if up_to <= self._gone:
            return None
        drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((up_to, drained))
        return drained

    def gone(self, counter: int) -> None:
        """Tell who waits for what came up to a counter: it is gone."""
        self._gone = counter
        for waiting in [waiting for waiting in self._waiting if waiting[0] <= counter]:
            self._waiting.remove(waiting)
            if not waiting[1].done():
                waiting[1].set_result(None)

    def all_gone(self) -> None:
        """Tell all who wait that nothing is left to do."""
        for drained in self._take():
            drained.set_result(None)

    def fail(self, error: KeypostError) -> None:
        """Tell all who wait what keeps it from being done."""
        for drained in self._take():
            drained.set_exception(error)

    def _take(self) -> list[asyncio.Future[None]]:
        waiting, self._waiting = self._waiting, []
        return [drained for _, drained in waiting if not drained.done()]


def _name(message: OutgoingMessage) -> str:
    return str(UUID(bytes=message.message_id))


def _sent(message: OutgoingMessage, sealed: Sealed, accept_time: int) -> Sent:
    return Sent(
        message_id=UUID(bytes=message.message_id),
        counter=message.counter,
        accept_time=accept_time,
        key_id=sealed.key_id,
        new_session=sealed.new_session,
        rsa_operations=sealed.rsa_operations,
    )
