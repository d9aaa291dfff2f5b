"""SendStream: batches, one after the other into the mailboxes; while one is being stored the next is read.

An envelope that is not stored holds back all later ones of its conversation at its revisions, so that none overtakes
it, until the sender has read of it and takes the conversation up again. Of each stream three batches are under way at
most, so neither a sender that is faster than the mailboxes nor one that does not read its results costs more memory
than that: it is not read on. Nothing is judged before its turn to be stored, so that a batch that had to wait meets the
records, and the time, of then.

What a batch is sent by is judged at once, and neither that nor the rest of the judging goes on for longer than a sender
waits for results: a directory that is silent about some recipients must not end the stream for all.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeGuard

from keypost_services.delivery.errors import directory_unavailable, mailboxes_unavailable
from keypost_services.delivery.judging import Stale
from keypost_services.delivery.mailboxes import MailboxesUnavailableError
from keypost_services.delivery.sending import Admitted, Held, Stored, hold_back
from keypost_services.runtime.errors import ServiceError
from keypost_services.runtime.requests import USER_NOT_FOUND

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

    from keypost.protocol.key_info import Key
    from keypost_services.delivery.envelopes import Conversation, Incoming
    from keypost_services.delivery.judging import Judging
    from keypost_services.delivery.sending import Answer, Sending
    from keypost_services.delivery.tracing import MessageTraces

Result = Stored | Stale | ServiceError | Held
"""What became of one envelope."""
MOST_WAITING = 1
"""Batches that were read while another one is being stored; one more is being read."""
LOOK_UP_SECONDS = 5.5
"""How long the records for a batch are waited for: a little longer than one look-up takes that fails."""
MOST_RECORD_BYTES = 2 * 1024 * 1024
"""Of records in one response, but that the first result which has any is told whole: devices take in 4 MiB."""
JUDGING_SECONDS = 7.0
"""After so long an envelope of a batch that would have to be asked about further is refused."""


@dataclass(frozen=True)
class Batch:
    """What one message of a stream hands over.

    Attributes:
        envelopes: The envelopes; in the place of one that is not well-formed, why.
        resume: The recipients to whom nothing is held any longer.
        trace_contexts: The traces in which envelopes are recorded, an empty text where one is not; nothing if none is.
    """

    envelopes: Sequence[Incoming | ServiceError]
    resume: Collection[str]
    trace_contexts: Sequence[str] = ()


class Outlet(Protocol):
    """Where results go; a call returns when the sender may get the next ones."""

    async def results(self, results: Sequence[Result]) -> None:
        """Say what became of the envelopes of a batch."""
        ...


class SendStream:
    """One stream of one device.

    Args:
        sending: Takes envelopes in.
        caller: The key by which the device showed itself.
        mailboxes_failed: Told why, when the mailboxes cannot be reached.
        unknown: Counts a recipient who does not exist; raises ServiceError when there were too many.
        traces: Tells of messages that are recorded.
        look_up_seconds: How long the records for a batch are waited for.
        judging_seconds: How long a batch is judged, the look-ups included.
    """

    def __init__(
        self,
        sending: Sending,
        caller: Key,
        mailboxes_failed: Callable[[str], None],
        unknown: Callable[[str], Awaitable[None]],
        *,
        traces: MessageTraces | None = None,
        look_up_seconds: float = LOOK_UP_SECONDS,
        judging_seconds: float = JUDGING_SECONDS,
    ) -> None:
        self._sending = sending
        self._caller = caller
        self._mailboxes_failed = mailboxes_failed
        self._unknown = unknown
        self._traces = traces
        self._look_up_seconds = look_up_seconds
        self._judging_seconds = judging_seconds
        self._held: set[Conversation] = set()

    async def run(self, batches: AsyncIterator[Batch], outlet: Outlet) -> None:
        """Serve the stream; returns when the sender has nothing more to say.

        Raises:
            ServiceError: what ``batches`` raises, the results of what came before are out by then; what ``unknown``
                raises.
        """
        read: asyncio.Queue[Batch | Exception | None] = asyncio.Queue(MOST_WAITING)
        reading = asyncio.create_task(_read(batches, read))
        try:
            while (batch := await read.get()) is not None:
                if isinstance(batch, Exception):
                    raise batch
                await outlet.results(await self.send(batch))
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def send(self, batch: Batch) -> Sequence[Result]:
        """Return what becomes of the envelopes of one batch, in their order."""
        if batch.trace_contexts and self._traces is not None:
            return await self._traces.of_batch(batch, self._send)
        return await self._send(batch)

    async def _send(self, batch: Batch) -> Sequence[Result]:
        if batch.resume:
            self._held = {held for held in self._held if held[0] not in batch.resume}
        until = asyncio.get_running_loop().time() + self._judging_seconds
        judging = self._sending.judging(self._caller)
        await judging.prepare(filter(self._is_to_be_judged, batch.envelopes), self._look_up_seconds)
        judged = [await self._admit(judging, one, until) for one in batch.envelopes]
        admitted = [one for one in judged if isinstance(one, Admitted)]
        stored = iter(await self._store(admitted) if admitted else ())
        results = [next(stored) if isinstance(one, Admitted) else one for one in judged]
        return self._hold(batch.envelopes, results)

    def _is_to_be_judged(self, one: Incoming | ServiceError) -> TypeGuard[Incoming]:
        return not isinstance(one, ServiceError) and one.known.conversation not in self._held

    async def _admit(self, judging: Judging, incoming: Incoming | ServiceError, until: float) -> Admitted | Result:
        if isinstance(incoming, ServiceError):
            return incoming  # of no conversation that could be told
        conversation = incoming.known.conversation
        if conversation in self._held:
            return Held()
        result: Admitted | Result
        try:
            async with asyncio.timeout_at(until):
                result = await self._sending.admit(judging, incoming)
        except TimeoutError:
            result = directory_unavailable()
        except ServiceError as error:
            result = error
        except MailboxesUnavailableError as error:
            result = self._unavailable(error)
        if not isinstance(result, Admitted):
            self._held.add(conversation)
        if isinstance(result, ServiceError) and result.reason == USER_NOT_FOUND:
            await self._unknown(result.metadata["username"])
        return result

    async def _store(self, admitted: Sequence[Admitted]) -> Sequence[Result]:
        try:
            return [self._result(answer) for answer in await self._sending.store(admitted)]
        except ServiceError as error:
            return [error for _ in admitted]

    def _result(self, answer: Answer) -> Result:
        return self._unavailable(answer) if isinstance(answer, MailboxesUnavailableError) else answer

    def _unavailable(self, error: MailboxesUnavailableError) -> ServiceError:
        self._mailboxes_failed(str(error))
        return mailboxes_unavailable(error)

    def _hold(self, envelopes: Sequence[Incoming | ServiceError], results: Sequence[Result]) -> Sequence[Result]:
        """Return the results, of each conversation nothing but ``Held`` after the first that is not there."""
        conversations = (None if isinstance(one, ServiceError) else one.known.conversation for one in envelopes)
        held, refused = hold_back(conversations, results)
        self._held |= refused
        return _bounded(held)


def _bounded(results: Sequence[Result]) -> Sequence[Result]:
    """Hold what has no room for its records in one response: it is told when the sender takes it up again."""
    room, bounded = MOST_RECORD_BYTES, []
    for result in results:
        size = result.size if isinstance(result, Stale) else 0
        is_first = room == MOST_RECORD_BYTES
        # What has no records needs no room, and there may be less than none: the first is told however large it is.
        has_room = not size or size <= room or is_first
        room -= size if has_room else 0
        bounded.append(result if has_room else Held())
    return bounded


async def _read(batches: AsyncIterator[Batch], read: asyncio.Queue[Batch | Exception | None]) -> None:
    """Read batches while there is room for them; at the end say how it ended."""
    try:
        async for batch in batches:
            await read.put(batch)
    except Exception as error:  # noqa: BLE001  # raised where the stream is served, after what came before
        await read.put(error)
    else:
        await read.put(None)
