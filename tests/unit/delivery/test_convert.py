"""What is refused before anything is looked up, field by field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost.protocol.envelope import MOST_HEADER_BYTES, read_envelope
from keypost.protocol.extension import MOST_EXTENSION_BYTES
from keypost.protocol.identifiers import Address
from keypost_services.delivery import convert
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

REALM = "example.org"
ALICE, BOB = Address("alice", "a" * 16), Address("bob", "b" * 16)
MESSAGE_ID = bytes.fromhex("0190a000000070008000000000000001")


def header(**changes: Any) -> envelope_pb2.Header:
    values: dict[str, Any] = {
        "realm": REALM,
        "message_id": MESSAGE_ID,
        "sender": envelope_pb2.Address(username=ALICE.username, device_id=ALICE.device_id),
        "recipient_username": "bob",
        "key_id": bytes(32),
        "counter": 1,
        "send_time": 1,
        "sender_revision": 1,
        "recipient_revision": 1,
    }
    return envelope_pb2.Header(**(values | changes))


def extension(**changes: Any) -> envelope_pb2.Extension:
    def device(address: Address) -> envelope_pb2.DeviceKey:
        own = envelope_pb2.Address(username=address.username, device_id=address.device_id)
        return envelope_pb2.DeviceKey(address=own, fingerprint=bytes(32))

    values: dict[str, Any] = {
        "realm": REALM,
        "suite": 2,
        "key_id": bytes(32),
        "creator": device(ALICE),
        "session_create_time": 1,
        "signer": device(ALICE),
        "sign_time": 1,
        "recipient_username": "bob",
        "sender_revision": 1,
        "recipient_revision": 1,
        "recipient_devices": [device(BOB)],
    }
    return envelope_pb2.Extension(**(values | changes))


def request(
    change: Callable[[envelope_pb2.Envelope], object] | None = None,
    head: envelope_pb2.Header | None = None,
    statement: envelope_pb2.Extension | None = None,
) -> pb.SendRequest:
    envelope = envelope_pb2.Envelope(
        header=(head or header()).SerializeToString(),
        key_extension=envelope_pb2.KeyExtension(
            extension=(statement or extension()).SerializeToString(),
            signature=bytes(384),
            sealed_keys=[envelope_pb2.SealedKey(fingerprint=bytes(32), sealed_key=bytes(384))],
        ),
        nonce=bytes(12),
        ciphertext=bytes(32),
    )
    if change:
        change(envelope)
    return pb.SendRequest(envelope=envelope)


def test_what_is_well_formed_is_what_the_core_reads() -> None:
    assert convert.read_send(request(), REALM) == read_envelope(request().envelope)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"message_id": MESSAGE_ID[:15]}, "message_id"),
        ({"message_id": MESSAGE_ID + b"x"}, "message_id"),
        ({"message_id": MESSAGE_ID[:6] + b"\x40" + MESSAGE_ID[7:]}, "message_id"),
        ({"message_id": MESSAGE_ID[:8] + b"\x00" + MESSAGE_ID[9:]}, "message_id"),
        ({"message_id": MESSAGE_ID[:8] + b"\xc0" + MESSAGE_ID[9:]}, "message_id"),
        ({"key_id": bytes(31)}, "key_id"),
        ({"key_id": bytes(33)}, "key_id"),
        ({"realm": "example.com"}, "realm"),
        ({"realm": ""}, "realm"),
        ({"counter": 0}, "counter"),
        ({"send_time": 0}, "send_time"),
        ({"send_time": -1}, "send_time"),
        ({"sender_revision": 0}, "sender_revision"),
        ({"recipient_revision": 0}, "recipient_revision"),
        ({"sender": envelope_pb2.Address(username="alice", device_id="x")}, "sender.device_id"),
        ({"sender": envelope_pb2.Address(username="Alice", device_id="a" * 16)}, "sender.username"),
        ({"recipient_username": ""}, "recipient_username"),
        ({"recipient_username": "x" * 129}, "recipient_username"),
        ({"counter": 2**63}, "counter"),
        ({"recipient_revision": 2**63}, "recipient_revision"),
    ],
)
def test_fields_of_the_header(changes: dict[str, Any], field: str) -> None:
    assert refused_field(request(head=header(**changes))) == f"envelope.header.{field}"


@pytest.mark.parametrize(
    ("field", "size"),
    [("envelope.header", MOST_HEADER_BYTES), ("envelope.key_extension.extension", MOST_EXTENSION_BYTES)],
)
def test_a_statement_that_is_too_large_is_not_parsed(monkeypatch: pytest.MonkeyPatch, field: str, size: int) -> None:
    def parsed(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(convert, "parse", parsed)
    wanted = request()
    part: Any = wanted.envelope if field == "envelope.header" else wanted.envelope.key_extension
    setattr(part, field.rpartition(".")[2], b"\x0a\x01\xff" * (size // 3 + 1))
    with pytest.raises(ServiceError, match=f"must have at most {size} bytes") as refused:
        convert.read_send(wanted, REALM)
    assert refused.value.metadata["field"] == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"suite": 0}, "suite"),
        ({"suite": 99}, "suite"),
        ({"recipient_devices": []}, "recipient_devices"),
        ({"recipient_devices": [envelope_pb2.DeviceKey()]}, "recipient_devices[0].fingerprint"),
        ({"session_create_time": 0}, "session_create_time"),
        ({"realm": "!"}, "realm"),
    ],
)
def test_fields_of_the_extension(changes: dict[str, Any], field: str) -> None:
    assert refused_field(request(statement=extension(**changes))) == f"envelope.key_extension.extension.{field}"


def spoil(path: str, value: Any) -> Callable[[envelope_pb2.Envelope], None]:
    def change(envelope: envelope_pb2.Envelope) -> None:
        *parents, last = path.split(".")
        target: Any = envelope
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, last, value)

    return change


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (spoil("header", b"\xff"), "envelope.header"),
        (spoil("header", b""), "envelope.header"),
        (spoil("key_extension.extension", b"\xff"), "envelope.key_extension.extension"),
        (spoil("key_extension.extension", bytes(20_000)), "envelope.key_extension.extension"),
        (spoil("key_extension.signature", b""), "envelope.key_extension.signature"),
        (spoil("nonce", bytes(11)), "envelope.nonce"),
        (spoil("nonce", bytes(13)), "envelope.nonce"),
        (spoil("ciphertext", bytes(15)), "envelope.ciphertext"),
        (lambda envelope: envelope.key_extension.ClearField("sealed_keys"), "envelope.key_extension.sealed_keys"),
        (
            lambda envelope: envelope.key_extension.sealed_keys.add(fingerprint=bytes(31)),
            "envelope.key_extension.sealed_keys[1].fingerprint",
        ),
    ],
)
def test_the_rest_of_the_envelope(change: Callable[[envelope_pb2.Envelope], object], field: str) -> None:
    assert refused_field(request(change)) == field


def test_an_empty_request() -> None:
    assert refused_field(pb.SendRequest()) == "envelope"


def refused_field(message: pb.SendRequest) -> str:
    with pytest.raises(ServiceError) as raised:
        convert.read_send(message, REALM)
    assert raised.value.reason == "INVALID_FIELD"
    return raised.value.metadata["field"]


def test_a_header_too_long_for_one() -> None:
    with pytest.raises(ServiceError, match="at most"):
        convert.read_send(request(spoil("header", header().SerializeToString() + b"\x7a\xa0\x1f" + bytes(4000))), REALM)


@pytest.mark.parametrize(
    "path", ["header", "key_extension.extension", "key_extension.signature", "nonce", "ciphertext"]
)
def test_the_digest_depends_on_every_part(path: str) -> None:
    sealed = convert.read_send(request(), REALM)
    envelope = request().envelope
    if path == "header":
        other = read_envelope(request(head=header(counter=2)).envelope)
    elif path == "key_extension.extension":
        other = read_envelope(request(statement=extension(sign_time=2)).envelope)
    else:
        current: Any = envelope
        for name in path.split("."):
            current = getattr(current, name)
        spoil(path, b"\x01" + current[1:])(envelope)
        other = read_envelope(envelope)
    assert convert.digest_of(sealed) != convert.digest_of(other)
    assert len(convert.digest_of(sealed)) == 32


def test_the_digest_depends_on_the_sealed_keys() -> None:
    def change(envelope: envelope_pb2.Envelope) -> None:
        envelope.key_extension.sealed_keys[0].sealed_key = b"\x01" * 384

    digests = {convert.digest_of(convert.read_send(request(how), REALM)) for how in (None, change)}
    assert len(digests) == 2


@pytest.mark.parametrize(("wanted", "granted"), [(0, 256), (1, 1), (256, 256)])
def test_how_many_may_be_under_way(wanted: int, granted: int) -> None:
    assert convert.read_start(pb.ReceiveRequest(start=pb.Start(max_unacknowledged=wanted))) == granted
