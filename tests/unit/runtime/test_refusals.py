from __future__ import annotations

import string

import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from keypost.errors import InvalidArgumentError, KeypostError, UnreachableError
from keypost.protocol.errors import EndorsementError, ProtocolError, RecordExpiredError, TokenRefusedError
from keypost_services.runtime.errors import ServiceError, invalid_field, rate_limited, shutting_down, token_refused
from keypost_services.runtime.refusals import KNOWN_ERRORS, MOST_BYTES, Refusal, internal, refusal_of

NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=200)


@given(
    message=st.text(max_size=20_000),
    metadata=st.dictionaries(NAMES, st.text(max_size=9_000), max_size=40),
    reason=st.text(string.ascii_uppercase, max_size=500),
)
def test_whatever_is_said_stays_small_with_exactly_one_error_info(
    message: str, metadata: dict[str, str], reason: str
) -> None:
    status = Refusal(StatusCode.ABORTED, reason, message, metadata, 5).status()
    assert len(status.SerializeToString()) <= MOST_BYTES
    kinds = [detail.type_url.rpartition(".")[2] for detail in status.details]
    assert kinds == ["ErrorInfo", "RetryInfo"]


def test_a_service_error_is_told_as_it_is() -> None:
    refusal = refusal_of(ServiceError(StatusCode.NOT_FOUND, "USER_NOT_FOUND", "no", username="bob"), {})
    assert refusal is not None
    status = refusal.status()
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, status.message) == (5, "no")
    assert (info.reason, info.domain, dict(info.metadata)) == ("USER_NOT_FOUND", "keypost", {"username": "bob"})


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (InvalidArgumentError("bad", field="username"), StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        (TokenRefusedError("EXPIRED"), StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED"),
        (EndorsementError("no"), StatusCode.PERMISSION_DENIED, "ENDORSEMENT_REFUSED"),
        (RecordExpiredError("old"), StatusCode.FAILED_PRECONDITION, "RECORD_EXPIRED"),
    ],
)
def test_the_nearest_known_base_decides_the_status(error: KeypostError, code: StatusCode, reason: str) -> None:
    codes = {
        **KNOWN_ERRORS,
        ProtocolError: StatusCode.FAILED_PRECONDITION,
        EndorsementError: StatusCode.PERMISSION_DENIED,
    }
    refusal = refusal_of(error, codes)
    assert refusal is not None
    assert (refusal.code, refusal.reason) == (code, reason)


@pytest.mark.parametrize("error", [RecordExpiredError("old"), UnreachableError("away"), ValueError("x"), KeyError()])
def test_what_no_table_names_is_not_told(error: Exception) -> None:
    assert refusal_of(error, KNOWN_ERRORS) is None


def test_the_sentences_of_common_refusals() -> None:
    assert invalid_field("key_request.realm", "must be ours").metadata == {"field": "key_request.realm"}
    assert token_refused("WRONG_AUDIENCE").message == "the token is refused: wrong audience"
    assert rate_limited("calls", 7).retry_after_ms == 7
    assert shutting_down().code is StatusCode.UNAVAILABLE
    assert internal("abc").metadata == {"error_id": "abc"}
    assert repr(shutting_down()).startswith("ServiceError(UNAVAILABLE, SHUTTING_DOWN")
