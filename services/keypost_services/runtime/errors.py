"""What services raise at their callers, and at those who start them."""

from __future__ import annotations

from grpc import StatusCode


class ServiceError(Exception):
    """A call is refused or has failed, for a reason that the caller may know.

    It reaches the caller as a gRPC status with exactly one ``google.rpc.ErrorInfo``. Whatever else escapes a servicer
    reaches the caller as INTERNAL with nothing but an id.

    Attributes:
        code: The gRPC status.
        reason: The upper-case word that the protos name.
        message: A sentence; never a key, a token or a body.
        retry_after_ms: How long the caller should wait, where waiting helps.
        metadata: Facts for machines. Small: everything together must stay under 4 KiB, what is longer is cut.
    """

    def __init__(
        self,
        code: StatusCode,
        reason: str,
        message: str,
        *,
        retry_after_ms: int | None = None,
        **metadata: str,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.metadata = metadata

    def __repr__(self) -> str:
        return f"ServiceError({self.code.name}, {self.reason}, {self.message!r})"


class StartError(Exception):
    """A service cannot start; the message is the one line that its operator reads."""


class SourceAwayError(Exception):
    """A service that this one asks cannot be reached, did not answer in time, or not with what can be relied upon."""


def invalid_field(field: str, why: str) -> ServiceError:
    """Return the refusal of a request because of one of its fields.

    Args:
        field: The field, as the proto names it (``key_request.username``).
        why: What it must be.
    """
    return ServiceError(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", f"{field}: {why}", field=field)


def method_not_admitted() -> ServiceError:
    """Return the refusal of a method: the same whether it does not exist or the caller may not call it."""
    return ServiceError(StatusCode.PERMISSION_DENIED, "METHOD_NOT_ADMITTED", "this caller may not call this method")


def token_refused(cause: str) -> ServiceError:
    """Return the refusal of a caller because of its token.

    Args:
        cause: An upper-case word, such as ``EXPIRED`` or ``UNKNOWN_KEY``.
    """
    return ServiceError(
        StatusCode.UNAUTHENTICATED,
        "TOKEN_REFUSED",
        f"the token is refused: {cause.lower().replace('_', ' ')}",
        cause=cause,
    )


def rate_limited(what: str, retry_after_ms: int) -> ServiceError:
    """Return the refusal of a caller that asks too often.

    Args:
        what: What there is too much of.
        retry_after_ms: When to try again, milliseconds.
    """
    return ServiceError(
        StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", f"too many {what}", retry_after_ms=retry_after_ms
    )


def limits_unavailable() -> ServiceError:
    """Return the refusal of a call that must be counted while nobody counts: somebody could guess without end."""
    return ServiceError(
        StatusCode.UNAVAILABLE,
        "LIMITS_UNAVAILABLE",
        "the service cannot tell now how often you have tried: try again",
        retry_after_ms=2_000,
    )


def shutting_down() -> ServiceError:
    """Return the refusal of a service that is about to end; another replica answers."""
    return ServiceError(
        StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "the service is shutting down: try again", retry_after_ms=500
    )
