"""What became of envelopes, as the protos say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost_services.delivery.judging import Stale
from keypost_services.delivery.sending import Stored
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost_services.delivery.send_stream import Result


def answer(outcome: Stored | Stale) -> pb.SendResponse:
    """Return what became of the envelope of a Send."""
    if isinstance(outcome, Stored):
        return pb.SendResponse(stored=_stored(outcome))
    return pb.SendResponse(stale_keys=_stale_keys(outcome))


def results(outcomes: Sequence[Result]) -> pb.SendStreamResponse:
    """Return what became of the envelopes of a batch."""
    response, last, message = pb.SendStreamResponse(), None, None
    for outcome in outcomes:
        # Mostly all of a batch are stored, at the same time.
        if message is None or outcome != last:
            last, message = outcome, _result(outcome)
        response.results.append(message)
    return response


def _result(outcome: Result) -> pb.SendResult:
    if isinstance(outcome, Stored):
        return pb.SendResult(stored=_stored(outcome))
    if isinstance(outcome, Stale):
        return pb.SendResult(stale_keys=_stale_keys(outcome))
    if isinstance(outcome, ServiceError):
        return pb.SendResult(refusal=_refusal(outcome))
    return pb.SendResult(held=pb.Held())


def _stored(stored: Stored) -> pb.Stored:
    return pb.Stored(accept_time=stored.accept_time, duplicate=stored.duplicate)


def _stale_keys(stale: Stale) -> pb.StaleKeys:
    return pb.StaleKeys(
        sender=stale.sender.key_info if stale.sender else None,
        recipient=stale.recipient.key_info if stale.recipient else None,
    )


def _refusal(error: ServiceError) -> pb.Refusal:
    return pb.Refusal(
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        metadata=error.metadata,
        retry_after=error.retry_after_ms or 0,
    )
