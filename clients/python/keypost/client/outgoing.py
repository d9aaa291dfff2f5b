"""What goes out, in the key store: begun, sealed and kept in one transaction; forgotten once delivery has it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from keypost.client.file_parts import FileCancelledError, complete, keep
from keypost.client.sealing import Sealer, new_message_id
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import InvalidArgumentError, KeypostError
from keypost.keystore.errors import KeyStoreFullError, KeyStoreUnavailableError
from keypost.keystore.values import OutgoingMessage
from keypost.protocol.errors import ProtocolError
from keypost.protocol.identifiers import conversation_of
from keypost.tracing import NO_SPAN, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from keypost.client.results import Sent
    from keypost.client.sealing import Sealed, Sealing
    from keypost.client.store_worker import StoreWorker
    from keypost.keystore.port import KeyStore

TIDY_AFTER = 0.05
"""Seconds that a message may stay in the outbox after delivery has it: a transaction meanwhile takes it out as well."""


@dataclass(eq=False)
class Item:
    """A message on its way out.

    Attributes:
        content: What to send.
        new_session: Negotiate a session for it.
        keep: It is kept in the outbox until delivery has it.
        listener: Who waits for what becomes of it; None if nobody does (any more).
        put_time: When it came, in seconds of the event loop.
        message: With id and counter, once it is begun.
        sealed: Its envelope, once it is sealed for the keys of now.
        span: The call that sends it, of one that does not come out of the outbox.
    """

    content: envelope_pb2.Content | None = field(repr=False, default=None)
    new_session: bool = False
    keep: bool = True
    listener: asyncio.Future[Sent] | None = None
    put_time: float = 0.0
    message: OutgoingMessage | None = None
    sealed: Sealed | None = None
    span: Span = NO_SPAN

    @property
    def trace_context(self) -> str:
        """The trace in which it is recorded; empty: in none."""
        return self.span.passed_on if self.message is None else self.message.trace_context

    @property
    def wanted(self) -> envelope_pb2.Content:
        """The content, of one that did not come out of the outbox."""
        if self.content is None:
            raise AssertionError
        return self.content

    @property
    def begun(self) -> OutgoingMessage:
        """The message, of one that is begun."""
        if self.message is None:
            raise AssertionError
        return self.message

    @property
    def sealed_now(self) -> Sealed:
        """The envelope, of one that is sealed."""
        if self.sealed is None:
            raise AssertionError
        return self.sealed

    @property
    def revisions(self) -> tuple[int, int]:
        """For which revisions of the sender's and the recipient's record it is sealed."""
        return self.sealed_now.sender_revision, self.sealed_now.recipient_revision

    @property
    def size(self) -> int:
        """How many bytes it takes, as far as it has come."""
        if self.sealed is not None:
            return self.sealed.size
        return len(self.message.content) if self.message is not None else self.wanted.ByteSize()

    @property
    def is_part(self) -> bool:
        """Whether it is a part of a file."""
        return envelope_pb2.Content.FromString(self.begun.content).HasField("file_part")


@dataclass(frozen=True)
class Drawing:
    """What beginning a message takes: its id, its counter, and who gets a copy.

    Attributes:
        sender: The own user.
        recipient: The other user.
        now: Unix milliseconds.
        random: Returns random bytes.
        copies_to_self: Keep a copy for the sender's other devices of each that is begun.
    """

    sender: str
    recipient: str
    now: int
    random: Callable[[int], bytes] = field(repr=False)
    copies_to_self: bool


@dataclass(frozen=True)
class Order:
    """What one transaction is to do for a conversation.

    Attributes:
        sealing: What sealing needs to know.
        again: Messages that were begun and are to be sealed for the keys of now.
        after: The counter after which the outbox is read first; None if all of it has been.
        fresh: What is to be begun.
        most: How many messages of the outbox are taken at most.
        most_bytes: How many bytes of them, unless a single one has more.
        copies_to_self: Keep a copy for the sender's other devices of each that is begun.
        kept: Who waits for messages that the outbox has, by their ids.
    """

    sealing: Sealing
    again: Sequence[Item]
    after: int | None
    fresh: Sequence[Item]
    most: int
    most_bytes: int
    copies_to_self: bool
    kept: Mapping[bytes, Item]

    @property
    def drawing(self) -> Drawing:
        """What beginning a message takes."""
        sealing = self.sealing
        sender, recipient = sealing.own.address.username, sealing.peer_record.username
        return Drawing(sender, recipient, sealing.now, sealing.random, self.copies_to_self)


@dataclass
class Filled:
    """What became of an order.

    Attributes:
        sealed: What is to go out, in order: the item, and its message and envelope or why there is none.
        refused: What could not be begun, and why.
        unsealed: What was begun and could not be sealed.
        emptied: What was kept and turned out too large to be sealed, and the refusal: it goes out empty.
        no_room: Why the rest could not be kept early; None if it could.
        failure: Why nothing could be sealed.
        loaded_up_to: The counter up to which the outbox was read, if there is more: then nothing fresh was begun.
        copies: How many copies were kept for the sender's other devices.
    """

    sealed: list[tuple[Item, OutgoingMessage, Sealed | KeypostError]] = field(default_factory=list)
    refused: list[tuple[Item, KeypostError]] = field(default_factory=list)
    unsealed: list[tuple[Item, OutgoingMessage]] = field(default_factory=list)
    emptied: list[tuple[Item, KeypostError]] = field(default_factory=list)
    no_room: KeyStoreFullError | None = None
    failure: ProtocolError | None = None
    loaded_up_to: int | None = None
    copies: int = 0


def fill(store: KeyStore, order: Order) -> Filled:
    """Seal what goes out next, and keep what is begun; call it within a transaction.

    When a key may not take part, what is fresh is kept all the same, and waits for keys that may.
    """
    filled = Filled()
    try:
        sealer = Sealer(store, order.sealing)
    except ProtocolError as error:
        _keep_unsealed(store, order, filled, error)
        return filled
    for item in order.again:
        if item.message is not None:
            _seal_begun(store, sealer, item, item.message, filled)
    if order.after is not None:
        _load(store, order, sealer, filled)
    if filled.loaded_up_to is None:
        for item in order.fresh:
            _begin(store, order, sealer, item, filled)
    sealer.finish()
    return filled


def _keep_unsealed(store: KeyStore, order: Order, filled: Filled, error: ProtocolError) -> None:
    filled.failure = error
    for item in order.fresh:
        if not item.keep:
            filled.refused.append((item, error))
            continue
        try:
            _begin_unsealed(store, order.drawing, item, filled)
        except (KeyStoreFullError, FileCancelledError) as refusal:
            filled.refused.append((item, refusal))


def keep_early(store: KeyStore, drawing: Drawing, fresh: Sequence[Item]) -> Filled:
    """Keep what cannot be sealed yet, up to the first that has no room; call it within a transaction."""
    filled = Filled()
    for item in fresh:
        try:
            _begin_unsealed(store, drawing, item, filled)
        except FileCancelledError as cancelled:
            filled.refused.append((item, cancelled))
        except KeyStoreFullError as full:
            filled.no_room = full
            break
    return filled


def _begin_unsealed(store: KeyStore, drawing: Drawing, item: Item, filled: Filled) -> None:
    """Draw id and counter of a message and keep it; one that fails leaves no gap.

    Raises:
        KeyStoreFullError: It has no room.
        FileCancelledError: It is a part of a file that was given up.
    """
    with store.transaction():
        message = _draw(store, drawing, item)
        keep(store, message, item.wanted)
        copies = _copy(store, drawing, item, message)
    filled.unsealed.append((item, message))
    filled.copies += copies


def _load(store: KeyStore, order: Order, sealer: Sealer, filled: Filled) -> None:
    left = store.outbox.to(order.sealing.peer_record.username, after=order.after or 0, limit=order.most + 1)
    size = 0
    for number, kept in enumerate(left):
        message = complete(store, kept)
        size += len(message.content)
        if number and (number == order.most or size > order.most_bytes):
            filled.loaded_up_to = left[number - 1].counter
            break
        _seal_begun(store, sealer, order.kept.get(kept.message_id) or Item(), message, filled)


def _seal_begun(store: KeyStore, sealer: Sealer, item: Item, message: OutgoingMessage, filled: Filled) -> None:
    """Seal a message whose counter is taken.

    For how many devices it is to be sealed was not known when it was kept. One that turns out too large goes out empty,
    from now on: its counter would be missed.
    """
    sealed = _seal(sealer, message, item)
    if isinstance(sealed, InvalidArgumentError) and item.keep:
        filled.emptied.append((item, sealed))
        message = replace(
            message, content=envelope_pb2.Content(key_update=envelope_pb2.KeyUpdate()).SerializeToString()
        )
        store.outbox.remove(message.message_id)
        store.outbox.add(message)
        sealed = _seal(sealer, message, item)
    filled.sealed.append((item, message, sealed))


def _seal(sealer: Sealer, message: OutgoingMessage, item: Item) -> Sealed | KeypostError:
    try:
        return sealer.seal(message, new_session=item.new_session)
    except KeyStoreUnavailableError:
        raise
    except KeypostError as error:
        return error


def _begin(store: KeyStore, order: Order, sealer: Sealer, item: Item, filled: Filled) -> None:
    """Draw id and counter of a message, seal and keep it; one that fails leaves no gap."""
    content = item.wanted
    try:
        with sealer.undone_on_failure(), store.transaction():
            message = _draw(store, order.drawing, item)
            sealed = sealer.seal(message, new_session=item.new_session)
            if item.keep:
                keep(store, message, content)
            copies = _copy(store, order.drawing, item, message)
    except KeyStoreUnavailableError:
        raise
    except KeypostError as error:
        filled.refused.append((item, error))
        return
    filled.sealed.append((item, message, sealed))
    filled.copies += copies


def _draw(store: KeyStore, drawing: Drawing, item: Item, copy: envelope_pb2.Content | None = None) -> OutgoingMessage:
    """Draw id and counter of a message, or of a copy of it for the sender's other devices."""
    recipient, content = (drawing.recipient, item.wanted) if copy is None else (drawing.sender, copy)
    return OutgoingMessage(
        message_id=new_message_id(drawing.now, drawing.random).bytes,
        recipient=recipient,
        counter=store.counters.next_send(conversation_of(drawing.sender, recipient)),
        create_time=drawing.now,
        content=content.SerializeToString(),
        trace_context=item.trace_context,
    )


def _copy(store: KeyStore, drawing: Drawing, item: Item, message: OutgoingMessage) -> int:
    """Keep a copy for the sender's other devices, within the savepoint that keeps the message; return how many.

    Raises:
        KeyStoreFullError: it has no room; the message without it would be on some devices alone.
    """
    content = item.wanted
    if not drawing.copies_to_self or not item.keep or not content.HasField("message"):
        return 0
    copy = envelope_pb2.SentCopy(
        recipient_username=message.recipient, message_id=message.message_id, message=content.message
    )
    store.outbox.add(_draw(store, drawing, item, envelope_pb2.Content(sent_copy=copy)))
    return 1


class Tidying:
    """Takes out of the outbox what delivery has, along with the next transaction or shortly afterwards.

    A crash before only means that a message is handed over again, and known by its id.

    Args:
        store: The key store.
    """

    def __init__(self, store: StoreWorker) -> None:
        self._store = store
        self._done: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._under_way: set[asyncio.Future[None]] = set()

    def add(self, message_id: bytes) -> None:
        """Have a message taken out."""
        self._done.append(message_id)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TIDY_AFTER, self.begin)

    def begin(self) -> None:
        """Take them out now; whoever asks for a shared transaction in the same breath shares this one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._done:
            done, self._done = self._done, []
            taking_out = self._store.begin_together(_take_out, done)
            self._under_way.add(taking_out)
            taking_out.add_done_callback(self._under_way.discard)

    async def finish(self) -> None:
        """Take them out, and wait until that is done."""
        self.begin()
        await asyncio.gather(*self._under_way)


def _take_out(store: KeyStore, done: Sequence[bytes]) -> None:
    for message_id in done:
        store.outbox.remove(message_id)
