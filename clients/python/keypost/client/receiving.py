"""Receiving: a stream that reconnects, each envelope settled before it is acknowledged (steps 8 to 14)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.client.look_up import RecordBehindError, RecordUnusableError
from keypost.client.opening import Fate, Opening, Outcome, as_keypost_error, settle
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import KeypostError, RefusedError, UnreachableError
from keypost.keystore.errors import KeyStoreUnavailableError
from keypost.protocol.encoding import parse
from keypost.protocol.envelope import check_addressed, read_envelope
from keypost.protocol.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.client.look_up import Records
    from keypost.client.retiring import Endings, Retiring
    from keypost.client.trusting import Trust
    from keypost.delivery.v1 import delivery_service_pb2
    from keypost.keystore.port import KeyStore
    from keypost.protocol.envelope import Header, SealedEnvelope
    from keypost.protocol.key_info import KeyRecord
    from keypost.transport.delivery_client import DeliveryClient, ReceiveStream
    from keypost.transport.retries import Backoff

TOKEN_REFUSED = "TOKEN_REFUSED"  # noqa: S105  # the name of an error
PATIENCE = 5
"""How often in a row a stream may fail where waiting is not known to help."""


@dataclass(frozen=True)
class Arrival:
    """An envelope as it came, or as it waited.

    Attributes:
        raw: The serialised envelope.
        accept_time: When delivery accepted it.
        receive_time: When this device received it.
        sequence: Its place in the waiting list; 0 if it was not there.
    """

    raw: bytes
    accept_time: int
    receive_time: int
    sequence: int = 0


class Receiving:
    """Turns what arrives into what the inbox holds.

    Args:
        context: What all parts share.
        identity: The own device.
        trust: The realm's trust.
        records: The users' records.
    """

    def __init__(self, context: Context, identity: Identity, trust: Trust, records: Records) -> None:
        self._context = context
        self._identity = identity
        self._trust = trust
        self._records = records

    async def take(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        """Settle envelopes, all in one transaction, and tell what happened to each."""
        openings = [await self.prepare(arrival) for arrival in arrivals]
        outcomes = await self._context.store.transact(_settle_all, openings)
        for outcome in outcomes:
            self.tell(outcome)
        return outcomes

    async def prepare(self, arrival: Arrival, *, refresh: bool = False) -> Opening:
        """Check what can be checked before anything is opened, and look the records up."""
        sealed, own, sender, failure = None, None, None, None
        try:
            sealed = self._read(arrival.raw)
            own, sender = await self._look_up(sealed.header, refresh=refresh)
            _check_not_behind(sender, sealed.header.sender_revision)
        except KeyStoreUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001  # nothing in a message may block the mailbox
            failure = as_keypost_error(error)
        return Opening(
            raw=arrival.raw,
            sealed=sealed,
            accept_time=arrival.accept_time,
            receive_time=arrival.receive_time,
            sequence=arrival.sequence,
            me=self._identity.address,
            ring=self._identity.ring,
            sender_record=sender,
            own_record=own,
            trust=await self._trust.current(),
            minimum_suite=self._context.minimum_suite,
            now=self._context.clock(),
            failure=failure,
        )

    async def _look_up(self, header: Header, *, refresh: bool) -> tuple[KeyRecord, KeyRecord]:
        """Return the recipient's and the sender's record; whatever is wrong with an answer, another may be right."""
        try:
            own = await self._records.get(header.recipient_username, min_revision=header.recipient_revision)
            sender = await self._records.get(
                header.sender.username, min_revision=header.sender_revision, refresh=refresh
            )
        except ProtocolError as error:
            if error.not_yet:
                raise
            raise RecordUnusableError(f"the directory's answer cannot be used: {error}", cause=error.reason) from error
        return own, sender

    def tell(self, outcome: Outcome) -> None:
        """Show the steps, and tell what the application should know."""
        for step in outcome.steps:
            self._context.show(step)
        for reason, sentence in outcome.warnings:
            self._context.tell("warning", reason, sentence, sender=outcome.sender)
        if outcome.error is not None and outcome.fate is Fate.WAITS:
            sentence = f"a message waits: {outcome.error}"
            self._context.tell("waiting", outcome.error.reason, sentence, sender=outcome.sender)
        elif outcome.error is not None:
            sentence = f"a message was set aside: {outcome.error}"
            self._context.tell("set_aside", outcome.error.reason, sentence, sender=outcome.sender)

    def _read(self, raw: bytes) -> SealedEnvelope:
        sealed = read_envelope(parse(envelope_pb2.Envelope, raw, "Envelope"))
        mine = {pair.fingerprint for pair in self._identity.ring.all()}
        check_addressed(sealed, self._context.realm, self._identity.address, mine)
        return sealed


def _check_not_behind(record: KeyRecord, revision: int) -> None:
    if record.revision < revision:
        raise RecordBehindError(f"revision {revision} of {record.username} is not known yet", username=record.username)


def _settle_all(store: KeyStore, openings: Sequence[Opening]) -> list[Outcome]:
    return [settle(store, opening) for opening in openings]


class Pump:
    """Keeps a stream open and moves what it brings into the inbox, until it is stopped.

    Args:
        context: What all parts share.
        delivery: Where the mailbox is.
        receiving: Settles envelopes.
        retiring: Retries what waits, and ends keys whose time is over.
        backoff: How long to wait before a stream is opened again.
        follow: Go on after the backlog, however long a service is away.
    """

    def __init__(
        self,
        context: Context,
        delivery: DeliveryClient,
        receiving: Receiving,
        retiring: Retiring,
        backoff: Backoff,
        *,
        follow: bool,
    ) -> None:
        self._context = context
        self._delivery = delivery
        self._receiving = receiving
        self._retiring = retiring
        self._backoff = backoff
        self._follow = follow
        self._failures = 0
        self._refused = False
        self.changed = asyncio.Event()
        self.caught_up = False
        self.failure: BaseException | None = None

    async def run(self) -> None:
        """Run until cancelled, until the backlog is in (without ``follow``), or until something fails for good."""
        try:
            while self._follow or not self.caught_up:
                try:
                    await self._one_stream()
                except KeypostError as error:
                    self._judge(error)
                    await asyncio.sleep(self._backoff.delay(self._failures))
                    self._failures += 1
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # whoever iterates must see it, whatever it is
            self.failure = error
        finally:
            self.changed.set()

    def _judge(self, error: KeypostError) -> None:
        """Raise what another stream would not mend."""
        tired = self._failures >= PATIENCE
        if isinstance(error, RefusedError) and error.reason == TOKEN_REFUSED:
            # The directory may not know a renewed key yet; what else it can be, the own record tells.
            self._refused = True
            final = tired
        elif isinstance(error, RefusedError):
            final = not error.retriable or (tired and not self._follow)
        elif isinstance(error, UnreachableError) or (isinstance(error, ProtocolError) and error.not_yet):
            final = tired and not self._follow
        else:
            final = True
        if final:
            raise error

    async def _one_stream(self) -> None:
        await self._retiring.check_self(refresh=self._refused)
        self._refused = False
        endings = await self._retiring.endings()
        stream = self._delivery.receive()
        try:
            async for response in stream.responses():
                self._failures = 0
                if response.HasField("batch"):
                    await self._batch(stream, response.batch)
                elif response.HasField("queue_empty"):
                    await self._queue_empty(endings)
                    if not self._follow:
                        return
            raise UnreachableError("the stream has ended", service="delivery")
        finally:
            await stream.close()

    async def _batch(self, stream: ReceiveStream, batch: delivery_service_pb2.Batch) -> None:
        now = self._context.clock()
        arrivals = [Arrival(delivery.envelope, delivery.accept_time, now) for delivery in batch.deliveries]
        await self._receiving.take(arrivals)
        self.changed.set()
        await stream.acknowledge([delivery.delivery_id for delivery in batch.deliveries])

    async def _queue_empty(self, endings: Endings) -> None:
        await self._retiring.retry_waiting()
        await self._retiring.end(endings)
        self.caught_up = True
        self.changed.set()
