"""What is refused before anything is looked up, field by field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost.protocol.encoding import pae, sha256
from keypost.protocol.envelope import MOST_HEADER_BYTES, read_envelope
from keypost.protocol.extension import MOST_EXTENSION_BYTES
from keypost.protocol.identifiers import Address
from keypost_services.delivery import convert
from keypost_services.delivery.envelopes import Envelopes
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


def readers() -> list[Envelopes]:
    """Return one that has read nothing yet, and one that knows the extension: there envelopes take the short way."""
    fresh, knowing = Envelopes(REALM), Envelopes(REALM)
    knowing.read_send(request())
    return [fresh, knowing]


def test_what_is_well_formed_is_what_the_core_reads() -> None:
    for envelopes in readers():
        incoming, sealed = envelopes.read_send(request()), read_envelope(request().envelope)
        assert incoming.known.extension == sealed.signed_extension.extension
        assert incoming.message_id == sealed.header.message_id
        assert incoming.send_time == sealed.header.send_time
        assert read_envelope(envelope_pb2.Envelope.FromString(incoming.for_key(bytes(32)))) == sealed


def test_each_device_gets_its_own_sealed_key_alone() -> None:
    def change(envelope: envelope_pb2.Envelope) -> None:
        envelope.key_extension.sealed_keys.add(fingerprint=b"\x01" * 32, sealed_key=b"\x02" * 384)

    incoming = Envelopes(REALM).read_send(request(change))
    for fingerprint, sealed_key in ((bytes(32), bytes(384)), (b"\x01" * 32, b"\x02" * 384)):
        stored = envelope_pb2.Envelope.FromString(incoming.for_key(fingerprint))
        assert [(key.fingerprint, key.sealed_key) for key in stored.key_extension.sealed_keys] == [
            (fingerprint, sealed_key)
        ]
        assert stored.header == request().envelope.header
        assert stored.ciphertext == request().envelope.ciphertext


def test_what_is_kept_of_extensions_is_bounded() -> None:
    envelopes = Envelopes(REALM, most_bytes=20_000)
    for sign_time in range(1, 30):
        envelopes.read_send(request(statement=extension(sign_time=sign_time)))
    assert 0 < len(envelopes._known) < 10
    assert envelopes.read_send(request(statement=extension(sign_time=1))).known.extension.sign_time == 1
    small = Envelopes(REALM, most_bytes=100)
    assert small.read_send(request()).known.extension.sign_time == 1, (
        "what is too large to be kept is read all the same"
    )


def test_fields_that_nobody_knows_are_not_stored() -> None:
    unknown = b"\x7a\x03???"
    for envelopes in readers():
        envelope = envelope_pb2.Envelope.FromString(request().envelope.SerializeToString() + unknown)
        envelope.key_extension.MergeFromString(unknown)
        incoming = envelopes.read(envelope)
        assert unknown not in incoming.for_key(bytes(32))
        assert incoming.digest == Envelopes(REALM).read_send(request()).digest


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
        Envelopes(REALM).read_send(wanted)
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
    fields = set()
    for envelopes in readers():
        with pytest.raises(ServiceError) as raised:
            envelopes.read_send(message)
        assert raised.value.reason == "INVALID_FIELD"
        fields.add(raised.value.metadata["field"])
    (field,) = fields
    return field


def test_a_header_too_long_for_one() -> None:
    with pytest.raises(ServiceError, match="at most"):
        Envelopes(REALM).read_send(
            request(spoil("header", header().SerializeToString() + b"\x7a\xa0\x1f" + bytes(4000)))
        )


@pytest.mark.parametrize(
    "path", ["header", "key_extension.extension", "key_extension.signature", "nonce", "ciphertext"]
)
def test_the_digest_depends_on_every_part(path: str) -> None:
    envelope = request().envelope
    if path == "header":
        other = request(head=header(counter=2)).envelope
    elif path == "key_extension.extension":
        other = request(statement=extension(sign_time=2)).envelope
    else:
        current: Any = envelope
        for name in path.split("."):
            current = getattr(current, name)
        spoil(path, b"\x01" + current[1:])(envelope)
        other = envelope
    for envelopes in readers():
        digest = envelopes.read_send(request()).digest
        assert digest != envelopes.read(other).digest
        assert len(digest) == 32


def test_the_digest_is_that_of_every_version() -> None:
    sealed = read_envelope(request().envelope)
    signed, (key,) = sealed.signed_extension, sealed.sealed_keys
    parts = (sealed.header_bytes, signed.statement, signed.signature, sealed.nonce, sealed.ciphertext)
    wanted = sha256(pae(*parts, key.fingerprint, key.sealed_key))
    assert [envelopes.read_send(request()).digest for envelopes in readers()] == [wanted, wanted]


def test_the_digest_depends_on_the_sealed_keys() -> None:
    def change(envelope: envelope_pb2.Envelope) -> None:
        envelope.key_extension.sealed_keys[0].sealed_key = b"\x01" * 384

    digests = {Envelopes(REALM).read_send(request(how)).digest for how in (None, change)}
    assert len(digests) == 2


@pytest.mark.parametrize(("wanted", "granted"), [(0, 256), (1, 1), (256, 256)])
def test_how_many_may_be_under_way(wanted: int, granted: int) -> None:
    assert convert.read_start(pb.ReceiveRequest(start=pb.Start(max_unacknowledged=wanted))) == granted
