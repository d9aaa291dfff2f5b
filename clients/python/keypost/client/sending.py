"""Sending: outbox, sealing, handing over, and what to do when keys turn out stale (steps 2 to 7)."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from keypost.client.context import short
from keypost.client.key_requests import warn_if_weak
from keypost.client.locks import Locks
from keypost.client.results import Sent
from keypost.client.sealing import Sealing, new_message_id, seal
from keypost.errors import InvalidArgumentError, KeypostError, RefusedError
from keypost.keystore.values import OutgoingMessage
from keypost.protocol.identifiers import conversation_of
from keypost.protocol.key_info import SUPERSEDED
from keypost.protocol.validity import check_can_act

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.client.records import Records
    from keypost.client.sealing import Sealed
    from keypost.client.trusting import Trust
    from keypost.delivery.v1 import delivery_service_pb2, envelope_pb2
    from keypost.keystore.port import KeyStore
    from keypost.protocol.key_info import KeyRecord
    from keypost.transport.delivery_client import DeliveryClient
    from keypost.transport.retries import Backoff

ROUNDS = 6
"""How often a message is sealed anew because keys changed on its way."""
STALE_KEYS = "STALE_KEYS"
REFUSALS = frozenset(
    {"INVALID_FIELD", "SENDER_IS_NOT_CALLER", "ENVELOPE_TOO_LARGE", "HEADER_MISMATCH", "USER_NOT_FOUND"}
    | {"MAILBOX_FULL", "SENDER_SHARE_FULL"}
)
"""Refusals of the message itself. Others are of its keys, of the caller, or of what is no Keypost service."""
ALREADY_STORED = "MESSAGE_ID_USED"
SESSION_STALE = "SESSION_STALE"


class Sending:
    """Sends messages, in order within a conversation.

    Args:
        context: What all parts share.
        identity: The own device.
        trust: The realm's trust.
        records: The users' records.
        delivery: Where envelopes are handed over.
        backoff: How long to wait where delivery and directory do not agree yet.
        settle: Finds out whether the pending key is the current one by now.
    """

    def __init__(
        self,
        context: Context,
        identity: Identity,
        trust: Trust,
        records: Records,
        delivery: DeliveryClient,
        backoff: Backoff,
        *,
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        self._context = context
        self._identity = identity
        self._trust = trust
        self._records = records
        self._delivery = delivery
        self._settle = settle
        self._backoff = backoff
        self._locks = Locks()

    async def send(self, recipient: str, content: envelope_pb2.Content, *, new_session: bool = False) -> Sent:
        """Send one content after everything that waits for the same recipient."""
        async with self.ordered(recipient):
            return await self.send_in_order(recipient, content, new_session=new_session)

    @asynccontextmanager
    async def ordered(self, recipient: str) -> AsyncIterator[None]:
        """Hold the conversation: look the recipient up, then send what an earlier failure or crash left behind."""
        address = self._identity.address
        if recipient == address.username:
            raise InvalidArgumentError(
                "a message to oneself has no other device to go to: name another user", field="username"
            )
        async with self._locks.of(recipient):
            # Before a counter is taken: a recipient who does not exist must not leave a gap.
            await self._look_up(recipient)
            await self._flush(recipient)
            yield

    async def send_in_order(
        self, recipient: str, content: envelope_pb2.Content, *, new_session: bool = False, keep: bool = True
    ) -> Sent:
        """Send one content; the caller holds the conversation.

        Args:
            recipient: The user.
            content: What to send.
            new_session: Negotiate a session for it.
            keep: Keep it in the outbox until delivery has it, across crashes too.

        Raises:
            KeypostError: it was not stored, as far as is known; unless it was refused for good, it is kept.
        """
        message = await self._context.store.transact(self._begin, recipient, content.SerializeToString(), keep=keep)
        try:
            return await self._hand_over(message, new_session=new_session)
        except KeypostError as error:
            if _is_final(error):
                await self._forget(message.message_id)
            elif keep:
                self._tell_kept(message, error)
            raise

    async def _look_up(self, recipient: str) -> tuple[KeyRecord, KeyRecord]:
        own = await self._records.get(self._identity.address.username)
        await self._check_can_act(own)
        peer = await self._records.get(recipient)
        return own, peer

    async def _check_can_act(self, own: KeyRecord) -> None:
        key = own.find(self._identity.current.fingerprint)
        if key is not None and key.state == SUPERSEDED:
            # Its successor may be the pending key, recorded while the answer is still on its way.
            await self._settle()
            key = own.find(self._identity.current.fingerprint)
        if key is not None:
            check_can_act(key, own, self._context.clock())

    async def _flush(self, recipient: str) -> None:
        while left := await self._context.store.run(lambda store: store.outbox.page(recipient)):
            for message in left:
                try:
                    await self._hand_over(message, new_session=False)
                except KeypostError as error:
                    if not _is_final(error):
                        raise
                    await self._forget(message.message_id)
                    self._context.tell("error", error.reason, f"a message that waited was given up: {error}")

    def _tell_kept(self, message: OutgoingMessage, error: KeypostError) -> None:
        sentence = f"a message to {message.recipient} stays in the outbox and goes before the next one: {error}"
        message_id = str(UUID(bytes=message.message_id))
        self._context.tell("waiting", error.reason, sentence, recipient=message.recipient, message_id=message_id)

    def _begin(self, store: KeyStore, recipient: str, content: bytes, *, keep: bool) -> OutgoingMessage:
        now = self._context.clock()
        conversation = conversation_of(self._identity.address.username, recipient)
        message = OutgoingMessage(
            message_id=new_message_id(now, self._context.random).bytes,
            recipient=recipient,
            counter=store.counters.next_send(conversation),
            create_time=now,
            content=content,
        )
        if keep:
            store.outbox.add(message)
        return message

    async def _forget(self, message_id: bytes) -> None:
        await self._context.store.run(lambda store: store.outbox.remove(message_id))

    async def _hand_over(self, message: OutgoingMessage, *, new_session: bool) -> Sent:
        for number in range(ROUNDS):
            sealing = await self._sealing(message.recipient, new_session=new_session)
            sealed = await self._seal(message, sealing)
            try:
                response = await self._call(sealed)
            except RefusedError as refused:
                # By delivery's clock the session is over, or by the constants that it knows: another one serves.
                if refused.reason != SESSION_STALE or sealed.new_session:
                    raise
                new_session = True
                continue
            new_session = False
            self._show_hand_over(sealed, message)
            if response is None or response.WhichOneof("outcome") == "stored":
                await self._forget(message.message_id)
                return _sent(
                    message, sealed, self._context.clock() if response is None else response.stored.accept_time
                )
            if not await self._learn(response.stale_keys, sealing.own_record, sealing.peer_record):
                await asyncio.sleep(self._backoff.delay(number))
        raise RefusedError(
            STALE_KEYS,
            f"the keys of {message.recipient} or of this user change faster than a message can be sealed; it stays in "
            "the outbox and goes out with the next one",
            retriable=True,
        )

    async def _sealing(self, recipient: str, *, new_session: bool) -> Sealing:
        own_record, peer_record = await self._look_up(recipient)
        self._show_look_up(peer_record)
        return Sealing(
            own=self._identity.current,
            own_record=own_record,
            peer_record=peer_record,
            trust=await self._trust.current(),
            minimum_suite=self._context.minimum_suite,
            now=self._context.clock(),
            clock=self._context.clock,
            random=self._context.random,
            new_session=new_session,
        )

    async def _seal(self, message: OutgoingMessage, sealing: Sealing) -> Sealed:
        sealed = await self._context.store.transact(seal, message, sealing)
        for step in sealed.steps:
            self._context.show(step)
        if sealed.new_session:
            warn_if_weak(self._context, sealing.own.suite)
        return sealed

    async def _call(self, sealed: Sealed) -> delivery_service_pb2.SendResponse | None:
        """Hand an envelope over; None means that it is stored already, under an earlier seal."""
        try:
            return await self._delivery.send(sealed.envelope)
        except RefusedError as refused:
            if refused.reason == ALREADY_STORED:
                return None
            raise

    async def _learn(self, stale: delivery_service_pb2.StaleKeys, own: KeyRecord, peer: KeyRecord) -> bool:
        """Verify the records that delivery sent along, and return whether one is newer than what was sealed for."""
        learned: list[bool] = []
        if stale.HasField("sender"):
            learned.append((await self._records.learn(own.username, stale.sender)).revision > own.revision)
        if stale.HasField("recipient"):
            learned.append((await self._records.learn(peer.username, stale.recipient)).revision > peer.revision)
        return any(learned)

    def _show_look_up(self, record: KeyRecord) -> None:
        actor = self._identity.address
        self._context.negotiation(2, actor, username=record.username, revision=record.revision, keys=len(record.keys))

    def _show_hand_over(self, sealed: Sealed, message: OutgoingMessage) -> None:
        self._context.negotiation(
            7,
            self._identity.address,
            recipient=message.recipient,
            counter=message.counter,
            key_id=short(sealed.key_id),
            envelope_bytes=sealed.envelope.ByteSize(),
            ciphertext_bytes=len(sealed.envelope.ciphertext),
            rsa_operations=sum(sealed.rsa_operations.values()),
        )


def _is_final(error: KeypostError) -> bool:
    """Return whether this very message was refused; everything else may mend, and the message stays."""
    if isinstance(error, RefusedError):
        return not error.retriable and error.reason in REFUSALS
    return isinstance(error, InvalidArgumentError)


def _sent(message: OutgoingMessage, sealed: Sealed, accept_time: int) -> Sent:
    return Sent(
        message_id=UUID(bytes=message.message_id),
        counter=message.counter,
        accept_time=accept_time,
        key_id=sealed.key_id,
        new_session=sealed.new_session,
        rsa_operations=sealed.rsa_operations,
    )
