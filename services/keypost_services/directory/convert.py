"""Between the directory's messages and its domain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.directory.v1 import directory_service_pb2 as pb
from keypost.keys.v1 import key_info_pb2
from keypost.protocol.history import later_history
from keypost_services.directory.errors import ca_unavailable
from keypost_services.directory.look_up.ports import Failure, Outcome
from keypost_services.runtime.requests import user_not_found

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keypost.protocol.key_info import KeyRecord

_FAILURES = {
    Failure.NOT_FOUND: pb.LOOK_UP_FAILURE_NOT_FOUND,
    Failure.UNAVAILABLE: pb.LOOK_UP_FAILURE_UNAVAILABLE,
}


def key_info_response(username: str, outcome: Outcome, history_from: bytes) -> pb.GetKeyInfoResponse:
    """Return the answer to a look-up of one user.

    Raises:
        ServiceError: USER_NOT_FOUND, CA_UNAVAILABLE.
    """
    if outcome is Failure.NOT_FOUND:
        raise user_not_found(username)
    if isinstance(outcome, Failure):
        raise ca_unavailable()
    return pb.GetKeyInfoResponse(key_info=trim_history(outcome, history_from))


def batch_response(usernames: Sequence[str], outcomes: Mapping[str, Outcome]) -> pb.BatchGetKeyInfoResponse:
    """Return the answer to a look-up of many users, in the order of the request."""
    return pb.BatchGetKeyInfoResponse(results=[_result(name, outcomes[name]) for name in usernames])


def trim_history(record: KeyRecord, history_from: bytes) -> key_info_pb2.KeyInfo:
    """Return key info with the history that the caller does not know yet.

    Args:
        record: With its full history.
        history_from: The fingerprint (32 bytes) of the newest key that the caller knows; empty or unknown: everything.
    """
    if not history_from or not record.history:
        return record.key_info
    entries = [key.request for key in record.keys]
    later = later_history(record.history, entries, record.epoch, history_from)
    return key_info_pb2.KeyInfo(record=record.key_info.record, history=[request.signed for request in later])


def _result(username: str, outcome: Outcome) -> pb.LookUpResult:
    if isinstance(outcome, Failure):
        return pb.LookUpResult(username=username, failure=_FAILURES[outcome])
    return pb.LookUpResult(username=username, key_info=outcome.key_info)
