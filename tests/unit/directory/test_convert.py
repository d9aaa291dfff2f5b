from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keypost.clock import DAY
from keypost.directory.v1 import directory_service_pb2 as pb
from keypost.keys.v1 import key_info_pb2
from keypost.protocol.encoding import fingerprint
from keypost_services.directory import convert
from keypost_services.directory.look_up.ports import Failure, Outcome
from keypost_services.runtime import requests
from keypost_services.runtime.errors import ServiceError
from support.clock import ManualClock
from support.realm import SimulatedRealm

if TYPE_CHECKING:
    from keypost.protocol.key_info import KeyRecord


def shown(key_info: key_info_pb2.KeyInfo) -> list[bytes]:
    """Return the fingerprints of the history, as they stand there."""
    requests = [key_info_pb2.KeyRequest.FromString(request.key_request) for request in key_info.history]
    return [fingerprint(request.public_key_der) for request in requests]


@pytest.fixture
def record() -> KeyRecord:
    """Two devices; of the first, three older keys are history; the second was approved by the second of them."""
    realm = SimulatedRealm(ManualClock())
    first = realm.enroll("alice")
    second = realm.renew(first)
    other = realm.approve(second)
    third = realm.renew(second)
    realm.renew(third)
    user = realm.users["alice"]
    old = {first.fingerprint, second.fingerprint, third.fingerprint}
    user.history = tuple(key.request for key in user.keys if key.fingerprint in old)
    user.keys = tuple(key for key in user.keys if key.fingerprint not in old)
    assert other.fingerprint in [key.fingerprint for key in user.keys]
    return realm.key_record("alice")


def test_without_a_fingerprint_the_whole_history_is_shown(record: KeyRecord) -> None:
    assert convert.trim_history(record, b"") == record.key_info


def test_an_unknown_fingerprint_shows_everything(record: KeyRecord) -> None:
    assert shown(convert.trim_history(record, b"x" * 32)) == [request.fingerprint for request in record.history]


def test_what_entered_up_to_the_fingerprint_is_left_out(record: KeyRecord) -> None:
    first, second, third = (request.fingerprint for request in record.history)
    assert shown(convert.trim_history(record, first)) == [second, third]
    assert shown(convert.trim_history(record, second)) == [third]
    assert shown(convert.trim_history(record, third)) == []
    other, current = (key.fingerprint for key in record.keys)
    # It entered before the third one was renewed.
    assert shown(convert.trim_history(record, other)) == [third]
    assert shown(convert.trim_history(record, current)) == []


def test_what_is_trimmed_stays_as_it_was_signed(record: KeyRecord) -> None:
    trimmed = convert.trim_history(record, record.history[0].fingerprint)
    assert trimmed.record == record.key_info.record
    assert list(trimmed.history) == list(record.key_info.history)[1:]


def test_keys_of_an_earlier_epoch_need_no_history() -> None:
    clock = ManualClock()
    realm = SimulatedRealm(clock)
    old = realm.enroll("alice")
    realm.renew(old)
    clock.advance(DAY)
    realm.reset("alice")
    user = realm.users["alice"]
    user.history, user.keys = (user.keys[0].request,), user.keys[1:]
    record = realm.key_record("alice")
    assert shown(convert.trim_history(record, record.keys[-1].fingerprint)) == []


@pytest.mark.parametrize(
    ("usernames", "why"),
    [
        ([], "1 to 100 at once"),
        ([f"user{number}" for number in range(101)], "1 to 100 at once"),
        (["alice", "bob", "alice"], "no one twice"),
    ],
)
def test_a_batch_is_bounded_and_well_formed(usernames: list[str], why: str) -> None:
    with pytest.raises(ServiceError, match=why) as refused:
        requests.read_usernames(usernames)
    assert refused.value.metadata == {"field": "usernames"}


def test_names_and_fingerprints_are_checked() -> None:
    assert requests.read_username("alice") == "alice"
    assert requests.read_history_from(b"x" * 32) == b"x" * 32
    with pytest.raises(ServiceError, match="username"):
        requests.read_username("-")
    with pytest.raises(ServiceError, match="history_from_fingerprint"):
        requests.read_history_from(b"x")


def test_what_is_kept_serialised_is_answered_as_protobuf_would_write_it(record: KeyRecord) -> None:
    first = record.history[0].fingerprint
    for history_from in (b"", first):
        trimmed = convert.trim_history(record, history_from)
        whole = pb.GetKeyInfoResponse(key_info=trimmed).SerializeToString()
        assert convert.key_info_response("alice", record, history_from).message == whole


def test_a_batch_is_answered_as_protobuf_would_write_it(record: KeyRecord) -> None:
    names = ["alice", "a" * 128, "bob", "carol"]
    outcomes: dict[str, Outcome] = {
        names[0]: record,
        names[1]: record,
        "bob": Failure.NOT_FOUND,
        "carol": Failure.UNAVAILABLE,
    }
    results = [
        pb.LookUpResult(username="alice", key_info=record.key_info),
        pb.LookUpResult(username="a" * 128, key_info=record.key_info),
        pb.LookUpResult(username="bob", failure=pb.LOOK_UP_FAILURE_NOT_FOUND),
        pb.LookUpResult(username="carol", failure=pb.LOOK_UP_FAILURE_UNAVAILABLE),
    ]
    whole = pb.BatchGetKeyInfoResponse(results=results).SerializeToString()
    assert convert.batch_response(names, outcomes).message == whole
