"""From the failure of a gRPC call back to the error that the service meant (docs/errors.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from keypost.errors import KeypostError, RefusedError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping

DOMAIN = "keypost"
REQUEST_ID_HEADER = "x-request-id"
REQUEST_ID = "request_id"
"""Under which an error names the call: the service's log has more about it."""
UNEXPECTED_ANSWER = "UNEXPECTED_ANSWER"
_LONGEST_MESSAGE = 500
_NOT_WRITTEN = "Internal error from Core"
_BROKEN = "Stream removed"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
# CANCELLED is what gRPC's core says of calls that reach a server which has just begun to drain.
_NO_ANSWER = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
_RETRIABLE_NUMBERS = frozenset(code.value[0] for code in _NO_ANSWER)


@dataclass(frozen=True)
class Refusal:
    """A failed call, understood.

    Attributes:
        error: What to raise.
        retriable: Whether the same call may succeed later.
        retry_after_ms: How long the service asks to wait, or None.
    """

    error: KeypostError
    retriable: bool
    retry_after_ms: int | None


def read_refusal(failure: grpc.aio.AioRpcError, service: str, endpoint: str = "") -> Refusal:
    """Return what a failed call means.

    Args:
        failure: As grpc.aio raised it.
        service: The name of the service that was called, for the sentence.
        endpoint: Where it was called, for the sentence; empty where that is not known.

    Returns:
        The refusal: a RefusedError if the service explained itself by exactly one ErrorInfo, else an
        UnreachableError (no answer) or a RefusedError with reason UNEXPECTED_ANSWER (what answered is no
        Keypost service).
    """
    info, retry_after_ms = _details(failure)
    if info is None:
        return _unexplained(failure, service, endpoint)
    refusal = explained(
        service, failure.code().value[0], info.reason, failure.details(), info.metadata, retry_after_ms=retry_after_ms
    )
    if request_id := _request_id(failure):
        refusal.error.metadata[REQUEST_ID] = request_id
    return refusal


def _request_id(failure: grpc.aio.AioRpcError) -> str:
    """Return how the service named the call; empty if it did not, or by what is no such name."""
    names = (value for name, value in failure.trailing_metadata() or () if name == REQUEST_ID_HEADER)
    name = next(names, "")
    return name if isinstance(name, str) and _REQUEST_ID.fullmatch(name) else ""


def explained(
    service: str,
    code: int,
    reason: str,
    message: str | None,
    metadata: Mapping[str, str],
    *,
    retry_after_ms: int | None,
) -> Refusal:
    """Return what a refusal means that a service explained.

    Args:
        service: Its name, for the sentence.
        code: The number of the gRPC status code.
        reason: The word for it.
        message: Its sentence.
        metadata: Facts for machines.
        retry_after_ms: How long the service asks to wait, or None.
    """
    retriable = code in _RETRIABLE_NUMBERS or retry_after_ms is not None
    facts = {key: value for key, value in metadata.items() if key not in ("reason", "message", "retriable")}
    if not _REASON.fullmatch(reason):
        reason, facts = UNEXPECTED_ANSWER, {}
    error = RefusedError(reason, f"the {service} service refused: {_shorten(message)} ({reason})", retriable=retriable)
    # Whatever a service calls its facts, it must not be taken for a parameter.
    error.metadata.update(facts)
    return Refusal(error, retriable, retry_after_ms)


def _details(failure: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo | None, int | None]:
    try:
        status = rpc_status.from_call(failure)
    except Exception:  # noqa: BLE001 - whatever a stranger put into the trailer is no explanation
        return None, None
    infos: list[error_details_pb2.ErrorInfo] = []
    retry_after_ms: int | None = None
    for detail in () if status is None else status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == DOMAIN:
            infos.append(info)
        elif detail.Is(retry.DESCRIPTOR) and detail.Unpack(retry):
            retry_after_ms = max(0, retry.retry_delay.ToMilliseconds())
    explained = len(infos) == 1 and _REASON.fullmatch(infos[0].reason) is not None
    return (infos[0] if explained else None), retry_after_ms


def _unexplained(failure: grpc.aio.AioRpcError, service: str, endpoint: str) -> Refusal:
    where = f"the {service} service at {endpoint}" if endpoint else f"the {service} service"
    facts = {"service": service, "code": failure.code().name} | ({"endpoint": endpoint} if endpoint else {})
    if failure.code() in _NO_ANSWER or _is_local(failure) or _is_broken(failure):
        text = f"the connection to {where} broke" if _is_broken(failure) else f"{where} does not answer"
        return Refusal(UnreachableError(text, **facts), retriable=True, retry_after_ms=None)
    text = f"{where} answered in an unexpected way ({failure.code().name}): is the endpoint right?"
    error = RefusedError(UNEXPECTED_ANSWER, text, retriable=False, **facts)
    return Refusal(error, retriable=False, retry_after_ms=None)


def _is_local(failure: grpc.aio.AioRpcError) -> bool:
    """Return whether no service said this: gRPC could not write, as the call has ended, and has lost how it ended."""
    return failure.code() is grpc.StatusCode.INTERNAL and failure.details() == _NOT_WRITTEN


def _is_broken(failure: grpc.aio.AioRpcError) -> bool:
    """Return whether no service said this: the stream ended without a status, and gRPC has no code for that.

    So it does when bytes were changed on their way, which TLS refuses. A server says UNKNOWN too, and without a
    trailer, when one of its methods fails: the words alone tell them apart.
    """
    is_unknown = failure.code() is grpc.StatusCode.UNKNOWN and not failure.trailing_metadata()
    return is_unknown and (failure.details() or "").startswith(_BROKEN)


def _shorten(details: str | None) -> str:
    printable = "".join(character if character.isprintable() else " " for character in details or "no details")
    return printable[:_LONGEST_MESSAGE]
