"""Delivery as its rules say it is, in memory, without a network; what goes wrong, and when, a test decides.

``ModelDelivery`` stands where the client's ``DeliveryClient`` does: idempotence, stale keys, what is held back after a
refusal and taken up again, streams that end before or after they have stored something. ``Sender`` is the sending side
of a client over it, with a real key store, which may crash.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc

from keypost.client.context import Context
from keypost.client.sending import Sending
from keypost.client.store_worker import open_worker
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import RefusedError, UnreachableError
from keypost.keystore import create_memory_store
from keypost.protocol.suites import STRONG
from keypost.transport.refusals import Refusal, explained
from keypost.transport.retries import Backoff, Retries
from keypost.transport.send_stream import SendOneByOne, StreamEndedError
from support.key_store import UNLOCK
from support.lies import publish
from support.realm import REALM, SimulatedRealm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from keypost.client.results import Event
    from keypost.protocol.steps import Observer
    from keypost.transport.send_stream import Answer


class Fate(Enum):
    """What becomes of an envelope, or of the stream when it comes."""

    STORED = "stored"
    STORED_AND_BROKEN = "stored, and the stream ends before its answer"
    BROKEN = "the stream ends before it is looked at"
    BUSY = "refused, and may be tried again"
    FULL = "refused for good"
    STALE = "the recipient's record changes just before"
    OWN_STALE = "the sender's record changes just before"
    SESSION_STALE = "delivery finds the session stale"


ENDING = (Fate.BROKEN, Fate.STORED_AND_BROKEN)
CODES = {
    Fate.BUSY: (grpc.StatusCode.UNAVAILABLE, "MAILBOXES_UNAVAILABLE"),
    Fate.FULL: (grpc.StatusCode.RESOURCE_EXHAUSTED, "MAILBOX_FULL"),
    Fate.SESSION_STALE: (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_STALE"),
}


@dataclass
class ModelDelivery:
    """Delivery's rules.

    Attributes:
        realm: Users and keys.
        fates: What becomes of the envelopes that are looked at, one after the other; then all are stored.
        mailboxes: By recipient, the headers of what is stored, in order.
        refused: The ids of what was refused for good.
        turns: For each batch, how many turns of the loop its answer takes.
        knows_streams: Whether it has SendStream.
        holds_after_known: Whether it holds what follows a message that it has, as earlier versions did.
    """

    realm: SimulatedRealm
    fates: Iterator[Fate] = field(default_factory=lambda: iter(()))
    mailboxes: dict[str, list[envelope_pb2.Header]] = field(default_factory=dict)
    refused: set[bytes] = field(default_factory=set)
    turns: Iterator[int] = field(default_factory=lambda: iter(()))
    knows_streams: bool = True
    holds_after_known: bool = False
    opened: int = 0
    batches: list[int] = field(default_factory=list)
    _stored: dict[bytes, bytes] = field(default_factory=dict)

    def send_stream(self) -> ModelStream:
        self.opened += 1
        return ModelStream(self)

    def send_one_by_one(self) -> SendOneByOne:
        self.opened += 1
        return SendOneByOne(self._send)

    async def _send(self, envelope: envelope_pb2.Envelope) -> pb.SendResponse:
        """Answer as Send does."""
        for _ in range(next(self.turns, 0)):
            await asyncio.sleep(0)
        try:
            answer = self.look_at(envelope)
        except StreamEndedError as broken:
            raise broken.refusal.error from None
        if isinstance(answer, Refusal):
            raise answer.error
        if isinstance(answer, pb.Stored):
            return pb.SendResponse(stored=answer)
        assert isinstance(answer, pb.StaleKeys)
        return pb.SendResponse(stale_keys=answer)

    async def refresh_token(self) -> None:
        """Nothing is refused."""

    def look_at(self, envelope: envelope_pb2.Envelope) -> Answer:
        """Return what becomes of an envelope.

        Raises:
            StreamEndedError: the stream ends.
        """
        fate = next(self.fates, Fate.STORED)
        if fate is Fate.BROKEN:
            raise StreamEndedError(ended())
        header = envelope_pb2.Header.FromString(envelope.header)
        if fate is Fate.STALE:
            publish(self.realm, header.recipient_username)
        if fate is Fate.OWN_STALE:
            publish(self.realm, header.sender.username)
        answer = self._judge(envelope, header, fate)
        if fate is Fate.STORED_AND_BROKEN:
            raise StreamEndedError(ended())
        return answer

    def _judge(self, envelope: envelope_pb2.Envelope, header: envelope_pb2.Header, fate: Fate) -> Answer:
        known = self._stored.get(header.message_id)
        if known is not None:
            same = known == envelope.SerializeToString()
            return pb.Stored(accept_time=1, duplicate=True) if same else _refusal("ALREADY_EXISTS", "MESSAGE_ID_USED")
        if (stale := self._stale(header)) is not None:
            return stale
        if fate in CODES:
            if fate is Fate.FULL:
                self.refused.add(header.message_id)
            return _refusal(CODES[fate][0].name, CODES[fate][1])
        self._stored[header.message_id] = envelope.SerializeToString()
        self.mailboxes.setdefault(header.recipient_username, []).append(header)
        return pb.Stored(accept_time=1)

    def _stale(self, header: envelope_pb2.Header) -> pb.StaleKeys | None:
        stale = pb.StaleKeys()
        if header.sender_revision < self.realm.users[header.sender.username].revision:
            stale.sender.CopyFrom(self.realm.key_info(header.sender.username))
        if header.recipient_revision < self.realm.users[header.recipient_username].revision:
            stale.recipient.CopyFrom(self.realm.key_info(header.recipient_username))
        return stale if stale.ByteSize() else None

    def check(self, recipient: str) -> None:
        """Fail unless each message is there once, in the order of the counters."""
        headers = self.mailboxes.get(recipient, [])
        counters = [header.counter for header in headers]
        assert counters == sorted(counters), f"overtaken: {counters}"
        assert max(Counter(header.message_id for header in headers).values(), default=0) <= 1
        assert max(Counter(counters).values(), default=0) <= 1


class ModelStream:
    """One stream."""

    def __init__(self, delivery: ModelDelivery) -> None:
        self._delivery = delivery
        self._batches: asyncio.Queue[tuple[Sequence[envelope_pb2.Envelope], Sequence[str]] | None] = asyncio.Queue()
        self._held: set[tuple[str, int, int]] = set()

    async def write(
        self, envelopes: Sequence[envelope_pb2.Envelope], resume: Sequence[str], _trace_contexts: Sequence[str] = ()
    ) -> None:
        await self._batches.put((envelopes, resume))

    async def answers(self) -> AsyncIterator[Sequence[Answer]]:
        if not self._delivery.knows_streams:
            raise StreamEndedError(_refusal("PERMISSION_DENIED", "METHOD_NOT_ADMITTED"))
        while (batch := await self._batches.get()) is not None:
            envelopes, resume = batch
            self._held = {place for place in self._held if place[0] not in resume}
            self._delivery.batches.append(len(envelopes))
            for _ in range(next(self._delivery.turns, 0)):
                await asyncio.sleep(0)
            yield [self._answer(envelope) for envelope in envelopes]

    def _answer(self, envelope: envelope_pb2.Envelope) -> Answer:
        header = envelope_pb2.Header.FromString(envelope.header)
        place = header.recipient_username, header.sender_revision, header.recipient_revision
        if place in self._held:
            return pb.Held()
        answer = self._delivery.look_at(envelope)
        known = isinstance(answer, Refusal) and answer.error.reason == "MESSAGE_ID_USED"
        if not isinstance(answer, pb.Stored) and (self._delivery.holds_after_known or not known):
            self._held.add(place)
        return answer

    async def finish(self) -> None:
        await self._batches.put(None)

    def cancel(self) -> None:
        """Nothing is open."""


def ended() -> Refusal:
    return Refusal(UnreachableError("the stream broke", service="delivery"), retriable=True, retry_after_ms=None)


def _refusal(code: str, reason: str) -> Refusal:
    return explained("delivery", grpc.StatusCode[code].value[0], reason, "no", {}, retry_after_ms=None)


class ModelRecords:
    """The users' records as a client holds them: as they were until it learns better."""

    def __init__(self, realm: SimulatedRealm, away: Iterator[bool]) -> None:
        self._realm = realm
        self._away = away
        self._held: dict[str, Any] = {}

    async def get(self, username: str) -> Any:
        if next(self._away, False):
            raise UnreachableError("the directory does not answer", service="directory")
        if username not in self._realm.users:
            raise RefusedError("USER_NOT_FOUND", "there is no such user")
        if username not in self._held:
            self._held[username] = self._realm.key_record(username)
        return self._held[username]

    async def learn(self, username: str, key_info: Any) -> Any:
        del key_info
        self._held[username] = self._realm.key_record(username)
        return self._held[username]


class Sender:
    """The sending side of a client, over a key store that outlives its crashes.

    Attributes:
        realm: Users and keys; ``alice`` is who sends.
        delivery: Delivery.
        events: What the application was told.
        away: For each look-up, whether the directory is away; then it is there.
        observer: Sees the steps, of clients that are opened from now on.
    """

    def __init__(self, *recipients: str, patience: float = 20.0) -> None:
        self.realm = SimulatedRealm()
        self.pair = self.realm.enroll("alice")
        for name in recipients:
            self.realm.enroll(name)
        self.delivery = ModelDelivery(self.realm)
        self.events: list[Event] = []
        self.away: Iterator[bool] = iter(())
        self.observer: Observer | None = None
        self._retries = Retries(backoff=Backoff(first=0.0, longest=0.0), patience=patience)
        self.store = create_memory_store(UNLOCK, realm=REALM, bundle=b"")

    async def start(self) -> None:
        """Open the client."""
        worker, _ = await open_worker(lambda: (self.store, None))
        self.worker = worker
        context = Context(
            realm=REALM,
            store=worker,
            clock=self.realm.clock,
            minimum_suite=STRONG,
            observer=self.observer,
            on_event=self.events.append,
            generate=self.realm.new_private_key,
            random=os.urandom,
        )
        ring = SimpleNamespace(current=self.pair)
        identity: Any = SimpleNamespace(address=self.pair.address, current=self.pair, ring=ring)
        trust, realm = self.realm.trust(), self.realm

        async def current() -> Any:
            return trust

        async def settle() -> None:
            return

        records: Any = ModelRecords(realm, self.away)
        delivery: Any = self.delivery
        trusting: Any = SimpleNamespace(current=current)
        self.sending = Sending(context, identity, trusting, records, delivery, self._retries, settle=settle)

    async def crash(self) -> None:
        """End the client at once: nothing is put in order, and what is committed is all that is left."""
        sending = self.sending
        if sending._tidying._timer is not None:
            sending._tidying._timer.cancel()
        sending._tidying._done.clear()
        await sending.close()
        # Whatever was under way in the store's thread ends, as the disk would have it.
        await self.worker.run(lambda _store: None)
        self.worker._executor.shutdown(wait=True)

    def text(self, body: str) -> envelope_pb2.Content:
        return envelope_pb2.Content(message=envelope_pb2.Message(media_type="text/plain", body=body.encode()))
