"""Every refusal of the directory, with its reason as in ``protos/keypost/directory/v1``."""

from __future__ import annotations

from grpc import StatusCode

from keypost_services.runtime.errors import ServiceError, rate_limited

RETRY_AFTER_MS = 1_000


def ca_unavailable() -> ServiceError:
    """Return the answer that nothing fresh is held and the CA does not answer."""
    return ServiceError(
        StatusCode.UNAVAILABLE,
        "CA_UNAVAILABLE",
        "nothing fresh is held here, and the CA does not answer: try again",
        retry_after_ms=RETRY_AFTER_MS,
    )


def events_forgotten() -> ServiceError:
    """Return the refusal of a watch that wants events that are no longer here."""
    return ServiceError(
        StatusCode.OUT_OF_RANGE,
        "EVENTS_FORGOTTEN",
        "these events are no longer here: drop what was cached, then watch without after_sequence",
    )


def sequence_ahead() -> ServiceError:
    """Return the refusal of a watch that wants to begin after events that have not been."""
    return ServiceError(
        StatusCode.OUT_OF_RANGE,
        "SEQUENCE_AHEAD",
        "this directory has not come that far: drop what was cached, then watch without after_sequence",
    )


def too_many_watches() -> ServiceError:
    """Return the refusal of one watch more than there may be."""
    return rate_limited("watches of this directory", RETRY_AFTER_MS)
