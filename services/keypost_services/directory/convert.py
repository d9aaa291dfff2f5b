"""Between the directory's messages and its domain."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from keypost.directory.v1 import directory_service_pb2 as pb
from keypost.keys.v1 import key_info_pb2
from keypost.protocol.history import later_history
from keypost_services.directory.errors import ca_unavailable
from keypost_services.directory.look_up.ports import Failure, Outcome
from keypost_services.runtime.handlers import Serialised
from keypost_services.runtime.requests import user_not_found
from keypost_services.runtime.wire import head

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keypost.protocol.key_info import KeyRecord

_FAILURES = {
    Failure.NOT_FOUND: pb.LOOK_UP_FAILURE_NOT_FOUND,
    Failure.UNAVAILABLE: pb.LOOK_UP_FAILURE_UNAVAILABLE,
}


MOST_HEADS = 65_536


def key_info_response(username: str, outcome: Outcome, history_from: bytes) -> Serialised:
    """Return the answer to a look-up of one user, a GetKeyInfoResponse.

    Raises:
        ServiceError: USER_NOT_FOUND, CA_UNAVAILABLE.
    """
    if outcome is Failure.NOT_FOUND:
        raise user_not_found(username)
    if isinstance(outcome, Failure):
        raise ca_unavailable()
    if history_from and outcome.history:
        return Serialised(pb.GetKeyInfoResponse(key_info=trim_history(outcome, history_from)).SerializeToString())
    key_info = outcome.serialised
    return Serialised(head(pb.GetKeyInfoResponse.KEY_INFO_FIELD_NUMBER, len(key_info)) + key_info)


def batch_response(usernames: Sequence[str], outcomes: Mapping[str, Outcome]) -> Serialised:
    """Return the answer to a look-up of many users, a BatchGetKeyInfoResponse, in the order of the request."""
    pieces: list[bytes] = []
    for username in usernames:
        outcome = outcomes[username]
        if isinstance(outcome, Failure):
            pieces.append(_failure(username, outcome))
        else:
            key_info = outcome.serialised
            pieces += _result_head(username, len(key_info)), key_info
    return Serialised(b"".join(pieces))


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


def _failure(username: str, failure: Failure) -> bytes:
    """Return a result that says why there is none, as it stands in the response."""
    result = pb.LookUpResult(username=username, failure=_FAILURES[failure])
    return pb.BatchGetKeyInfoResponse(results=[result]).SerializeToString()


@lru_cache(MOST_HEADS)
def _result_head(username: str, size: int) -> bytes:
    """Return what stands before key info of this size in the result of a user."""
    name = username.encode()
    before = (
        head(pb.LookUpResult.USERNAME_FIELD_NUMBER, len(name))
        + name
        + head(pb.LookUpResult.KEY_INFO_FIELD_NUMBER, size)
    )
    return head(pb.BatchGetKeyInfoResponse.RESULTS_FIELD_NUMBER, len(before) + size) + before
