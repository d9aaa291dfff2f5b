"""What delivery tells of messages whose senders record them: taken in, stored, pushed.

A message has its own trace, whatever stream it comes on. Its context comes beside the envelope, is kept beside it in
the mailbox, and goes on beside it: the next hop follows from the one before. Of a message without one nothing is done
here but to look.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from keypost.tracing import NO_SPAN, Span, rpc_facts
from keypost_services.delivery.envelopes import Incoming
from keypost_services.delivery.judging import Stale
from keypost_services.delivery.sending import Stored
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from structlog.typing import FilteringBoundLogger

    from keypost_services.delivery.mailboxes import Waiting
    from keypost_services.delivery.send_stream import Batch, Result
    from keypost_services.runtime.tracing import ServiceTraces

SEND_STREAM = "keypost.delivery.v1.DeliveryService/SendStream"
RECEIVE = "keypost.delivery.v1.DeliveryService/Receive"
CUT_OFF = "CUT_OFF"
"""The stream ended before it was known what becomes of the message."""


class MessageTraces:
    """Tells of messages.

    Args:
        traces: The service's.
        log: Has a line for each message that is recorded, with the ids of its trace.
    """

    def __init__(self, traces: ServiceTraces, log: FilteringBoundLogger) -> None:
        self._traces = traces
        self._log = log

    async def of_batch(self, batch: Batch, send: Callable[[Batch], Awaitable[Sequence[Result]]]) -> Sequence[Result]:
        """Return what becomes of a batch, and tell it of those of its messages that are recorded.

        What is asked once for all of them is told in the trace of the first.
        """
        spans = [self._begin(context) for context in batch.trace_contexts]
        for one, span in zip(batch.envelopes, spans, strict=True):
            if isinstance(one, Incoming):
                one.trace_context = span.passed_on
        outcomes = [CUT_OFF] * len(spans)
        try:
            with next((span for span in spans if span.is_recorded), NO_SPAN).current():
                results = await send(batch)
            outcomes = [outcome_of(result) for result in results]
        finally:
            for span, outcome in zip(spans, outcomes, strict=True):
                self._end(span, outcome)
        return results

    def _begin(self, context: str) -> Span:
        if not context or not self._traces.grant():
            return NO_SPAN
        return self._traces.traces.begin(SEND_STREAM, "SERVER", follows=context, facts=rpc_facts(SEND_STREAM))

    def _end(self, span: Span, outcome: str) -> None:
        if span.is_recorded:
            self._log.info("message taken in", outcome=outcome or "STORED", **span.ids)
        span.end(outcome)

    @contextlib.contextmanager
    def pushing(self, found: Sequence[Waiting]) -> Iterator[Sequence[Waiting]]:
        """Tell that envelopes are being pushed; yields them with the contexts that go along."""
        if not any(waiting.trace_context for waiting in found):
            yield found
            return
        spans = [self._traces.traces.begin_if(waiting.trace_context, RECEIVE, "PRODUCER") for waiting in found]
        try:
            yield [replace(waiting, trace_context=span.passed_on) for waiting, span in zip(found, spans, strict=True)]
        finally:
            for span in spans:
                if span.is_recorded:
                    self._log.info("message pushed", **span.ids)
                span.end()


def outcome_of(result: Result) -> str:
    """Return why a message was not stored, in a word; nothing if it was."""
    match result:
        case Stored():
            return ""
        case Stale():
            return "STALE_KEYS"
        case ServiceError():
            return result.reason
    return "HELD"
