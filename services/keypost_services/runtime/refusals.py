"""How a failure looks on the wire: a status, a sentence, exactly one ErrorInfo, less than 4 KiB."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.rpc import code_pb2, error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import StatusCode

from keypost.errors import InvalidArgumentError, KeypostError
from keypost.protocol.errors import TokenRefusedError
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Mapping

DOMAIN = "keypost"
DETAILS_KEY = "grpc-status-details-bin"
MOST_BYTES = 3_072
"""Base64 makes a third more of it on the wire: still 4 KiB."""
_LONGEST_MESSAGE = 512
_LONGEST_VALUE = 256
_MOST_FACTS = 8

ErrorCodes = dict[type[KeypostError], StatusCode]
"""Which gRPC status the errors of a family stand for."""

KNOWN_ERRORS: ErrorCodes = {
    InvalidArgumentError: StatusCode.INVALID_ARGUMENT,
    TokenRefusedError: StatusCode.UNAUTHENTICATED,
}
"""What any service may let through. Every other error is a surprise: the caller learns an id and nothing else."""


@dataclass(frozen=True)
class Refusal:
    """What the caller is told.

    Attributes:
        code: The gRPC status.
        reason: ``ErrorInfo.reason``.
        message: A sentence.
        metadata: ``ErrorInfo.metadata``.
        retry_after_ms: ``RetryInfo.retry_delay``, milliseconds; None: waiting does not help.
    """

    code: StatusCode
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after_ms: int | None = None

    @property
    def details(self) -> str:
        """The sentence, cut to what may travel."""
        return _cut(self.message, _LONGEST_MESSAGE)

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """Return the metadata that carries the rich status."""
        return ((DETAILS_KEY, self.status().SerializeToString()),)

    def status(self) -> status_pb2.Status:
        """Return the rich status: one ErrorInfo, one RetryInfo where waiting helps, at most ``MOST_BYTES``."""
        status = status_pb2.Status(code=code_pb2.Code.Value(self.code.name), message=self.details)
        facts = {key[:64]: _cut(value, _LONGEST_VALUE) for key, value in self.metadata.items()}
        info = error_details_pb2.ErrorInfo(
            reason=self.reason[:64], domain=DOMAIN, metadata=dict(list(facts.items())[:_MOST_FACTS])
        )
        status.details.add().Pack(info)
        if self.retry_after_ms is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(self.retry_after_ms)
            status.details.add().Pack(retry)
        return status


def refusal_of(error: BaseException, codes: ErrorCodes) -> Refusal | None:
    """Return what the caller is told of ``error``; None if it must not be told anything of it.

    Args:
        error: What a servicer raised.
        codes: Which errors of Keypost's family the caller may know; the nearest base class counts.
    """
    if isinstance(error, ServiceError):
        return Refusal(error.code, error.reason, error.message, error.metadata, error.retry_after_ms)
    if isinstance(error, KeypostError):
        code = next((codes[cls] for cls in type(error).__mro__ if cls in codes), None)
        if code is None:
            return None
        retry_after_ms = getattr(error, "retry_after_ms", None)
        return Refusal(code, error.reason, str(error), error.metadata, retry_after_ms)
    return None


def internal(error_id: str) -> Refusal:
    """Return all that a caller learns of a failure that nobody foresaw.

    Args:
        error_id: Under which the log has the rest.
    """
    return Refusal(StatusCode.INTERNAL, "INTERNAL", "internal error; the service's log has it", {"error_id": error_id})


def _cut(text: str, most_bytes: int) -> str:
    encoded = text.encode("utf-8", "replace")
    return text if len(encoded) <= most_bytes else encoded[: most_bytes - 3].decode("utf-8", "ignore") + "…"
