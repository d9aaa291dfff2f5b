"""Sending: a lane for each conversation, all of them over one stream (steps 2 to 7)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

from keypost.client.lanes import Lane, Means
from keypost.client.outgoing import Item, Tidying
from keypost.client.pipeline import Pipeline
from keypost.client.results import Outgoing
from keypost.client.sealing import Sealing
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import InvalidArgumentError, KeypostError
from keypost.protocol.key_info import SUPERSEDED
from keypost.protocol.validity import check_can_act

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.client.records import Records
    from keypost.client.results import Sent
    from keypost.client.trusting import Trust
    from keypost.delivery.v1 import delivery_service_pb2
    from keypost.keystore.port import KeyStore
    from keypost.keystore.values import OutgoingMessage
    from keypost.protocol.key_info import KeyRecord
    from keypost.transport.delivery_client import DeliveryClient
    from keypost.transport.retries import Retries

PAGE = 256
SEND = "keypost send"


async def nothing_first() -> None:
    """Nothing is to be done before messages are sealed."""


class Sending:
    """Sends messages, in order within a conversation, and what earlier failures and crashes left in the outbox.

    Args:
        context: What all parts share.
        identity: The own device.
        trust: The realm's trust.
        records: The users' records.
        delivery: Where envelopes are handed over.
        retries: How long to wait, and for how long at most.
        settle: Finds out whether the pending key is the current one by now.

    Attributes:
        prepare: What is done before each group of messages is sealed, such as a renewal that is due.
    """

    def __init__(
        self,
        context: Context,
        identity: Identity,
        trust: Trust,
        records: Records,
        delivery: DeliveryClient,
        retries: Retries,
        *,
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        self._context = context
        self._identity = identity
        self._trust = trust
        self._records = records
        self._retries = retries
        self._settle = settle
        self._lanes: dict[str, Lane] = {}
        self._tasks: set[asyncio.Task[list[Lane]]] = set()
        self._is_closed = False
        self.prepare: Callable[[], Awaitable[None]] = nothing_first
        self._tidying = Tidying(context.store)
        self._pipeline = Pipeline(delivery, retries, signer=self._signer, on_established=self.begin_flush)
        self._means = Means(
            context=context,
            pipeline=self._pipeline,
            tidying=self._tidying,
            retries=retries,
            address=lambda: identity.address,
            signer=self._signer,
            sealing=self._sealing,
            learn=self._learn,
            keep_copies=self._copies_are_kept,
            told=set(),
        )

    async def send(
        self, recipient: str, content: envelope_pb2.Content, *, new_session: bool = False, keep: bool = True
    ) -> Sent:
        """Send one content after everything that was to be sent to the same recipient before.

        Args:
            recipient: The user.
            content: What to send.
            new_session: Negotiate a session for it.
            keep: Keep it in the outbox until delivery has it, across crashes too.

        Raises:
            InvalidArgumentError: the recipient is the own user.
            KeypostError: it was not stored, as far as is known. If it is kept, an event of kind ``waiting`` says so.
        """
        self.check_recipient(recipient)
        return await self._outcome(recipient, self._put(recipient, content, new_session=new_session, keep=keep))

    def check_recipient(self, recipient: str) -> None:
        """Raise InvalidArgumentError if the recipient is the own user."""
        if recipient == self._identity.address.username:
            raise InvalidArgumentError(
                "a message to oneself has no other device to go to: name another user", field="username"
            )

    def begin_flush(self) -> None:
        """Begin to send what is in the outbox, in the background."""
        if self._identity.ring.current is None or self._is_closed:
            return
        task = asyncio.create_task(self._begin_flush())
        self._tasks.add(task)
        task.add_done_callback(self._end_task)

    async def flush(self) -> tuple[Outgoing, ...]:
        """Send what is in the outbox, and return what is left in it; see Client.flush."""
        lanes = await self._begin_flush()
        endings = [asyncio.create_task(lane.ended()) for lane in lanes]
        if endings:
            _, late = await asyncio.wait(endings, timeout=self._retries.patience)
            for ending in late:
                ending.cancel()
        return await self.outbox()

    async def drain(self, recipient: str, last: Callable[[KeyStore], int]) -> None:
        """Wait until what is kept for a user is on its way no longer; not for what is sent to him meanwhile.

        Args:
            recipient: The user.
            last: Returns the counter of the last message that is waited for; 0 if none is.

        Raises:
            KeypostError: what keeps it from being stored.
        """
        await self._tidying.finish()
        if up_to := await self._context.store.run(last):
            lane = self._lane(recipient)
            lane.read_outbox()
            await lane.drained(up_to)
            await self._tidying.finish()

    async def outbox(self) -> tuple[Outgoing, ...]:
        """Return what is in the outbox, ordered by when it was to be sent; see Client.outbox."""
        await self._tidying.finish()
        return await self._context.store.run(_read_outbox)

    async def close(self) -> None:
        """End what is under way: what is in the outbox stays there."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await self._pipeline.close()
        for lane in list(self._lanes.values()):
            await lane.close()
        await self._tidying.finish()

    def _put(self, recipient: str, content: envelope_pb2.Content, *, new_session: bool, keep: bool) -> Item:
        listener = asyncio.get_running_loop().create_future()
        span = self._context.traces.begin(SEND, "PRODUCER")
        item = Item(content=content, new_session=new_session, keep=keep, listener=listener, span=span)
        self._lane(recipient).put(item)
        return item

    async def _outcome(self, recipient: str, item: Item) -> Sent:
        if item.listener is None:
            raise AssertionError
        failure = "CANCELLED"
        try:
            sent = await item.listener
            failure = ""
        except asyncio.CancelledError:
            if (lane := self._lanes.get(recipient)) is not None:
                lane.withdraw(item)
            raise
        except KeypostError as error:
            failure = error.reason
            raise
        finally:
            item.span.end(failure)
        return sent

    def _lane(self, recipient: str) -> Lane:
        if (lane := self._lanes.get(recipient)) is None:
            lane = self._lanes[recipient] = Lane(recipient, self._means, self._end)
        return lane

    def _end(self, lane: Lane) -> None:
        self._lanes.pop(lane.recipient, None)

    def _end_task(self, task: asyncio.Task[list[Lane]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._context.tell("warning", "OUTBOX_NOT_READ", f"the outbox could not be read: {error}")

    async def _begin_flush(self) -> list[Lane]:
        await self._tidying.finish()
        lanes = []
        for recipient in await self._context.store.run(lambda store: store.outbox.recipients()):
            lanes.append(lane := self._lane(recipient))
            lane.read_outbox()
        return lanes

    def _copies_are_kept(self) -> None:
        self._lane(self._identity.address.username).read_outbox()

    def _signer(self) -> bytes:
        return self._identity.current.fingerprint

    async def _sealing(self, recipient: str) -> Sealing | None:
        await self.prepare()
        while True:
            own = self._identity.current
            own_record, peer_record = await self._look_up(recipient)
            if recipient == own.address.username and not await self._has_other_devices(own_record):
                return None
            trust = await self._trust.current()
            # A key that came into use meanwhile is in the record of then, and not in the one that was looked up before.
            if self._signer() == own.fingerprint:
                break
        return Sealing(
            own=own,
            own_record=own_record,
            peer_record=peer_record,
            trust=trust,
            minimum_suite=self._context.minimum_suite,
            now=self._context.clock(),
            clock=self._context.clock,
            random=self._context.random,
        )

    async def _look_up(self, recipient: str) -> tuple[KeyRecord, KeyRecord]:
        own = await self._records.get(self._identity.address.username)
        await self._check_can_act(own)
        if recipient == own.username:
            return own, own
        return own, await self._records.get(recipient)

    async def _check_can_act(self, own: KeyRecord) -> None:
        key = own.find(self._identity.current.fingerprint)
        if key is not None and key.state == SUPERSEDED:
            # Its successor may be the pending key, recorded while the answer is still on its way.
            await self._settle()
            key = own.find(self._identity.current.fingerprint)
        if key is not None:
            check_can_act(key, own, self._context.clock())

    async def _has_other_devices(self, own: KeyRecord) -> bool:
        """Return whether copies have a device to go to; without one they are of no use any more."""
        me, now = self._identity.address, self._context.clock()
        if any(key.address != me for key in own.good_keys(now)):
            return True
        await self._context.store.transact(_drop_copies, me.username)
        return False

    async def _learn(self, stale: delivery_service_pb2.StaleKeys, own: KeyRecord, peer: KeyRecord) -> bool:
        """Verify the records that delivery sent along, and return whether one is newer than what was sealed for."""
        learned: list[bool] = []
        if stale.HasField("sender"):
            learned.append((await self._records.learn(own.username, stale.sender)).revision > own.revision)
        if stale.HasField("recipient"):
            learned.append((await self._records.learn(peer.username, stale.recipient)).revision > peer.revision)
        return any(learned)


def _drop_copies(store: KeyStore, username: str) -> None:
    while left := store.outbox.to(username):
        for message in left:
            store.outbox.remove(message.message_id)


def _read_outbox(store: KeyStore) -> tuple[Outgoing, ...]:
    found: list[Outgoing] = []
    after = b""
    while page := store.outbox.page(after=after, limit=PAGE):
        found.extend(_outgoing(message) for message in page)
        after = page[-1].message_id
    return tuple(found)


def _outgoing(message: OutgoingMessage) -> Outgoing:
    content = envelope_pb2.Content.FromString(message.content)
    copy = content.sent_copy if content.HasField("sent_copy") else None
    return Outgoing(
        username=message.recipient,
        message_id=UUID(bytes=message.message_id),
        counter=message.counter,
        create_time=message.create_time,
        size=len(message.content),
        copy_to=None if copy is None else copy.recipient_username,
    )
