"""What does not parse is refused by the name of the field that is at fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.ca.v1 import ca_service_pb2 as ca_pb
from keypost.ca.v1 import key_info_service_pb2 as info_pb
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost.keys.v1 import key_info_pb2
from keypost_services.runtime import parsing
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

TEXT, NO_TEXT = b"QQQQ", b"Q\xff\xfeQ"
HERE = TEXT.decode()


def refused_field(kind: type[Message], raw: bytes, field: str = "") -> str:
    with pytest.raises(ServiceError) as refused:
        parsing.parse(kind, raw, field)
    assert refused.value.reason == "INVALID_FIELD"
    return refused.value.metadata["field"]


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (ca_pb.BeginEnrollmentRequest(username=HERE), "username"),
        (ca_pb.BeginEnrollmentRequest(sign_in=ca_pb.SignIn(one_time_code=HERE)), "sign_in.one_time_code"),
        (info_pb.BatchGetKeyInfoRequest(usernames=["alice", HERE]), "usernames[1]"),
        (
            pb.ReceiveRequest(acknowledge=pb.Acknowledge(delivery_ids=["1-1", "\xe9", HERE])),
            "acknowledge.delivery_ids[2]",
        ),
        (
            envelope_pb2.Extension(
                creator=envelope_pb2.DeviceKey(fingerprint=NO_TEXT),
                recipient_devices=[
                    envelope_pb2.DeviceKey(),
                    envelope_pb2.DeviceKey(address=envelope_pb2.Address(username=HERE)),
                ],
            ),
            "recipient_devices[1].address.username",
        ),
        (info_pb.BatchGetKeyInfoResponse(key_info={HERE: key_info_pb2.KeyInfo()}), "key_info[0].key"),
    ],
)
def test_the_string_that_is_no_text_is_named(message: Message, path: str) -> None:
    kind, raw = type(message), message.SerializeToString()
    assert parsing.parse(kind, raw) == message
    broken = raw.replace(TEXT, NO_TEXT)
    assert refused_field(kind, broken) == path
    assert refused_field(kind, broken, "key_request.key_request") == f"key_request.key_request.{path}"


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a", b"\x0a\x05abc", b"\xff" * 1000])
def test_what_is_no_message_at_all_is_the_request(raw: bytes) -> None:
    assert refused_field(ca_pb.BeginEnrollmentRequest, raw) == "request"
    assert refused_field(ca_pb.BeginEnrollmentRequest, raw, "envelope.header") == "envelope.header"


def broken(message: Message) -> bytes:
    return message.SerializeToString().replace(TEXT, NO_TEXT)


def test_the_largest_honest_messages_are_searched_to_their_end() -> None:
    address = envelope_pb2.Address(username="u" * 64, device_id="d" * 16)
    device = envelope_pb2.DeviceKey(address=address, fingerprint=bytes(32))
    last = envelope_pb2.DeviceKey(address=envelope_pb2.Address(username=HERE))
    extension = envelope_pb2.Extension(creator=device, signer=device, recipient_devices=[*[device] * 99, last])
    assert refused_field(envelope_pb2.Extension, broken(extension)) == "recipient_devices[99].address.username"
    usernames = info_pb.BatchGetKeyInfoRequest(usernames=[*["u" * 128] * 99, HERE])
    assert refused_field(info_pb.BatchGetKeyInfoRequest, broken(usernames)) == "usernames[99]"
    acknowledge = pb.ReceiveRequest(acknowledge=pb.Acknowledge(delivery_ids=[*["1" * 40] * 255, HERE]))
    assert refused_field(pb.ReceiveRequest, broken(acknowledge)) == "acknowledge.delivery_ids[255]"


DEVICES = [envelope_pb2.DeviceKey()] * 4_000


@pytest.mark.parametrize(
    "message",
    [
        pb.ReceiveRequest(acknowledge=pb.Acknowledge(delivery_ids=[*[""] * 8_000, HERE])),
        envelope_pb2.Extension(
            recipient_devices=[*DEVICES, envelope_pb2.DeviceKey(address=envelope_pb2.Address(username=HERE))]
        ),
    ],
)
def test_of_many_values_it_looks_at_few(monkeypatch: pytest.MonkeyPatch, message: Message) -> None:
    visited: list[object] = []

    def counted(*args: Any) -> Iterator[Any]:
        for value in values(*args):
            visited.append(value)
            yield value

    values = parsing._values
    monkeypatch.setattr(parsing, "_values", counted)
    raw = broken(message)
    assert len(raw) <= parsing.MOST_SEARCHED_BYTES
    assert refused_field(type(message), raw, "statement") == "statement"
    assert len(visited) <= parsing.MOST_SEARCHED_VALUES + 1


def test_what_is_large_is_parsed_but_once(monkeypatch: pytest.MonkeyPatch) -> None:
    twins: list[object] = []
    monkeypatch.setattr(parsing, "_twin", twins.append)
    raw = broken(info_pb.BatchGetKeyInfoRequest(usernames=["u" * parsing.MOST_SEARCHED_BYTES, HERE]))
    assert refused_field(info_pb.BatchGetKeyInfoRequest, raw) == "request"
    assert refused_field(info_pb.BatchGetKeyInfoRequest, raw, "envelope.header") == "envelope.header"
    assert not twins
