"""What does not parse is refused by the name of the field that is at fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keypost.ca.v1 import ca_service_pb2 as ca_pb
from keypost.ca.v1 import key_info_service_pb2 as info_pb
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost.keys.v1 import key_info_pb2
from keypost_services.runtime import parsing
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
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


def test_a_large_request_is_searched_to_its_end() -> None:
    usernames = [f"user{number}" for number in range(50_000)]
    raw = info_pb.BatchGetKeyInfoRequest(usernames=[*usernames, HERE]).SerializeToString()
    assert refused_field(info_pb.BatchGetKeyInfoRequest, raw.replace(TEXT, NO_TEXT)) == "usernames[50000]"
