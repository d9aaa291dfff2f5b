"""The pump: a stream that reconnects and moves what it brings into the inbox."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keypost.client.own_watch import as_revoked
from keypost.client.receiving import Arrival
from keypost.errors import KeypostError, RefusedError, UnreachableError
from keypost.protocol.errors import ProtocolError
from keypost.tracing import is_context
from keypost.transport.remote_service import TOKEN_REFUSED

if TYPE_CHECKING:
    from keypost.client.context import Context
    from keypost.client.receiving import Receiving
    from keypost.client.retiring import Endings, Retiring
    from keypost.client.waiting import Waiting
    from keypost.delivery.v1 import delivery_service_pb2
    from keypost.transport.delivery_client import DeliveryClient, ReceiveStream
    from keypost.transport.retries import Backoff

UNKNOWN_KEY = "UNKNOWN_KEY"
PATIENCE = 5
"""How often in a row a stream may fail where waiting is not known to help."""
STEADY = 10.0
"""Seconds after which a stream that brought nothing counts as one that worked."""


class Pump:
    """Keeps a stream open and moves what it brings into the inbox, until it is stopped.

    Args:
        context: What all parts share.
        delivery: Where the mailbox is.
        receiving: Settles envelopes.
        waiting: Retries what waits.
        retiring: Ends keys whose time is over.
        backoff: How long to wait before a stream is opened again.
        follow: Go on after the backlog, however long a service is away.
    """

    def __init__(
        self,
        context: Context,
        delivery: DeliveryClient,
        receiving: Receiving,
        waiting: Waiting,
        retiring: Retiring,
        backoff: Backoff,
        *,
        follow: bool,
    ) -> None:
        self._context = context
        self._delivery = delivery
        self._receiving = receiving
        self._waiting = waiting
        self._retiring = retiring
        self._backoff = backoff
        self._follow = follow
        self._failures = 0
        self._retry_after_ms: int | None = None
        self._refused = False
        self.changed = asyncio.Event()
        self.caught_up = False
        self.stopped = False
        self.failure: BaseException | None = None

    async def run(self) -> None:
        """Run until cancelled, until the backlog is in (without ``follow``), or until something fails for good."""
        try:
            while self._follow or not self.caught_up:
                try:
                    # Whoever began to receive has nothing to do with what comes.
                    with self._context.traces.following(""):
                        await self._one_stream()
                    # Only now: whoever iterates ends the pump, and the last acknowledgement is on its way.
                    self.caught_up = True
                except KeypostError as error:
                    await self._judge(error)
                    await asyncio.sleep(self._backoff.delay(self._failures, self._retry_after_ms))
                    self._failures += 1
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # whoever iterates must see it, whatever it is
            self.failure = error
        finally:
            self.changed.set()

    def stop(self) -> None:
        """Say that the client is closed: whoever waits for the next message ends."""
        self.stopped = True
        self.changed.set()

    def fail(self, error: KeypostError) -> None:
        """Say that this device may go on no longer: whoever waits for the next message gets the error."""
        self.failure = self.failure or error
        self.changed.set()

    async def _judge(self, error: KeypostError) -> None:
        """Raise what another stream would not mend."""
        if isinstance(error, RefusedError) and (revoked := as_revoked(error, self._receiving.address)) is not None:
            raise revoked from error
        tired = self._failures >= PATIENCE
        if isinstance(error, RefusedError) and error.reason == TOKEN_REFUSED:
            # The directory may not know a renewed key yet; what else it can be, the own record tells.
            self._refused = True
            final = tired and not (self._follow and await self._is_behind(error))
        elif isinstance(error, RefusedError):
            final = not error.retriable or (tired and not self._follow)
        elif isinstance(error, UnreachableError) or (isinstance(error, ProtocolError) and error.not_yet):
            final = tired and not self._follow
        else:
            final = True
        if final:
            raise error

    async def _is_behind(self, refused: RefusedError) -> bool:
        """Return whether a service does not know a key yet that the CA has recorded: it has lost touch with the CA."""
        return refused.metadata.get("cause") == UNKNOWN_KEY and await self._retiring.is_on_record()

    async def _one_stream(self) -> None:
        await self._retiring.check_self(refresh=self._refused)
        self._refused = False
        endings = await self._retiring.endings()
        stream, opened = self._delivery.receive(), asyncio.get_running_loop().time()
        try:
            async for response in stream.responses():
                if response.HasField("batch"):
                    await self._batch(stream, response.batch)
                elif response.HasField("queue_empty"):
                    await self._queue_empty(endings)
                    if not self._follow:
                        return
            raise UnreachableError("the stream has ended", service="delivery")
        finally:
            self._retry_after_ms = stream.retry_after_ms
            # One that is opened, and ends at once, again and again, is no reason to hurry.
            if asyncio.get_running_loop().time() - opened >= STEADY:
                self._failures = 0
            await stream.close()

    async def _batch(self, stream: ReceiveStream, batch: delivery_service_pb2.Batch) -> None:
        now = self._context.clock()
        arrivals = [_arrival(delivery, now) for delivery in batch.deliveries]
        await self._receiving.take(arrivals, self._waiting.settle_earlier)
        self.changed.set()
        await stream.acknowledge([delivery.delivery_id for delivery in batch.deliveries])
        self._failures = 0

    async def _queue_empty(self, endings: Endings) -> None:
        await self._waiting.retry()
        await self._retiring.end(endings)
        self.changed.set()


def _arrival(delivery: delivery_service_pb2.Delivery, now: int) -> Arrival:
    return Arrival(
        delivery.envelope,
        delivery.accept_time,
        now,
        attempts=delivery.attempts,
        # Nobody vouches for it.
        trace_context=delivery.trace_context if is_context(delivery.trace_context) else "",
    )
