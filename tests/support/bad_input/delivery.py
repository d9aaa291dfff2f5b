"""Delivery's methods, with what may stand in their requests."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

import grpc

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost_services.delivery.compose import compose
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.serving import running
from support.bad_input.rules import (
    OK,
    Rule,
    device_id,
    form,
    invalid,
    never,
    number,
    one_of,
    realm,
    refused,
    size,
    size_between,
    statement,
    username,
)
from support.bad_input.surface import Call, Exchange, RefusedWithinError, Surface, conversing, made, unary
from support.clock import START
from support.delivery import SimulatedDevice, open_stack
from support.limits import UNLIMITED
from support.realm import REALM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

SEND, STREAM, RECEIVE, LIST = (
    "/keypost.delivery.v1.DeliveryService/" + name for name in ("Send", "SendStream", "Receive", "ListMailboxes")
)
CODES = {code.value[0]: code.name for code in grpc.StatusCode}
EMPTY_BATCH = pb.SendStreamRequest(envelopes=[envelope_pb2.Envelope()]).SerializeToString()
BATCH, RESUME = f"{STREAM} batch", f"{STREAM} resume"
BEGIN, GO_ON = f"{RECEIVE} first", f"{RECEIVE} later"
NAMES = (SEND, BATCH, RESUME, BEGIN, GO_ON, LIST)
HEADER, EXTENSION = "envelope.header", "envelope.key_extension.extension"
SEALED_KEYS = "envelope.key_extension.sealed_keys"
SOON = START + 5 * 60_000


def mismatch(field: str) -> dict[str, str]:
    """Return that a good value is refused, since what stands for the same in the other statement differs."""
    return refused("header and extension disagree", f"INVALID_ARGUMENT/HEADER_MISMATCH@{HEADER}.{field}", ok=True)


OTHER_KEYS = refused(
    "these are not the good devices of the recipient", f"INVALID_ARGUMENT/SEALED_KEYS_MISMATCH@{SEALED_KEYS}"
)
OTHER_SIGNER = refused("another key than the caller's", "PERMISSION_DENIED/SENDER_IS_NOT_CALLER")
NO_CREATOR = refused("the creator has no part in that conversation", invalid(f"{EXTENSION}.creator"))
OTHER_CREATOR = refused("no good key created the session", f"FAILED_PRECONDITION/SESSION_STALE@{EXTENSION}.creator")
TOO_OLD = refused("the session is over", f"FAILED_PRECONDITION/SESSION_STALE@{EXTENSION}.session_create_time")
NOT_THEIRS = refused(
    "the devices are another user's", *(invalid(f"{EXTENSION}.recipient_devices[{n}]") for n in (0, 1))
)
NOT_IN_ORDER = refused("the devices are not in order", invalid(f"{EXTENSION}.recipient_devices"))
OTHER_SUITE = refused(
    "the signature beside it has not the length of that suite",
    invalid("envelope.key_extension.signature"),
)
STORED = refused("the header is one that was stored before", "ALREADY_EXISTS/MESSAGE_ID_USED")


def is_uuid_7(value: bytes) -> bool:
    """Hold for a UUIDv7 (RFC 9562)."""
    return len(value) == 16 and value[6] & 0xF0 == 0x70 and value[8] & 0xC0 == 0x80


TOO_MANY = refused("there are too many", "INVALID_ARGUMENT/BATCH_TOO_LARGE@resume")
HEADER_RULES = {
    "realm": Rule(one_of(REALM)),
    "message_id": Rule(is_uuid_7),
    "sender": Rule(never),
    "sender.username": Rule(username, mismatch("sender")),
    "sender.device_id": Rule(device_id, mismatch("sender")),
    "recipient_username": Rule(username, mismatch("recipient_username")),
    "key_id": Rule(size(32), mismatch("key_id")),
    "counter": Rule(number()),
    "send_time": Rule(number(1, SOON)),
    "sender_revision": Rule(number(), mismatch("sender_revision")),
    "recipient_revision": Rule(number(), mismatch("recipient_revision")),
}
EXTENSION_RULES = {
    "realm": Rule(realm, mismatch("realm")),
    "suite": Rule(one_of(1, 2), OTHER_SUITE | OK),
    "key_id": Rule(size(32), mismatch("key_id")),
    "creator": Rule(never),
    "creator.address": Rule(never),
    "creator.address.username": Rule(username, NO_CREATOR | OTHER_CREATOR),
    "creator.address.device_id": Rule(device_id, OTHER_CREATOR),
    "creator.fingerprint": Rule(size(32), OTHER_CREATOR),
    "session_create_time": Rule(number(1, SOON), TOO_OLD | OK),
    "signer": Rule(never),
    "signer.address": Rule(never),
    "signer.address.username": Rule(username, mismatch("sender") | NO_CREATOR),
    "signer.address.device_id": Rule(device_id, mismatch("sender")),
    "signer.fingerprint": Rule(size(32), OTHER_SIGNER),
    "sign_time": Rule(number(1, SOON)),
    "recipient_username": Rule(username, mismatch("recipient_username") | NOT_THEIRS | NO_CREATOR),
    "sender_revision": Rule(number(), mismatch("sender_revision")),
    "recipient_revision": Rule(number(), mismatch("recipient_revision")),
    "recipient_devices": Rule(size_between(1, 100), OTHER_KEYS | NOT_IN_ORDER | OK),
    "recipient_devices[]": Rule(never),
    "recipient_devices[].address": Rule(never),
    "recipient_devices[].address.username": Rule(username, NOT_THEIRS),
    "recipient_devices[].address.device_id": Rule(device_id, OTHER_KEYS | NOT_IN_ORDER),
    "recipient_devices[].fingerprint": Rule(size(32), OTHER_KEYS),
}
SEND_RULES = {
    "envelope": Rule(never),
    HEADER: Rule(statement(envelope_pb2.Header, REALM), STORED | OK),
    "envelope.key_extension": Rule(never),
    EXTENSION: Rule(statement(envelope_pb2.Extension, REALM), NOT_IN_ORDER | OK),
    "envelope.key_extension.signature": Rule(size(384)),
    SEALED_KEYS: Rule(size_between(1, 100), OTHER_KEYS | OK),
    f"{SEALED_KEYS}[]": Rule(never),
    f"{SEALED_KEYS}[].fingerprint": Rule(size(32), OTHER_KEYS),
    f"{SEALED_KEYS}[].sealed_key": Rule(size(128, 384), OTHER_KEYS | OK),
    "envelope.nonce": Rule(size(12)),
    "envelope.ciphertext": Rule(lambda value: len(value) >= 16),
    **{f"{HEADER}.{name}": rule for name, rule in HEADER_RULES.items()},
    **{f"{EXTENSION}.{name}": rule for name, rule in EXTENSION_RULES.items()},
}
BOUNDS = {
    "envelope": (256 * 1024, "INVALID_ARGUMENT/ENVELOPE_TOO_LARGE@envelope"),
    HEADER: (4 * 1024, invalid(HEADER)),
    EXTENSION: (16 * 1024, invalid(EXTENSION)),
}
RESUME_RULES = {
    # What becomes of each envelope does not end the stream.
    "envelopes": Rule(
        lambda _: True, refused("there are too many", "INVALID_ARGUMENT/BATCH_TOO_LARGE@envelopes", ok=True)
    ),
    "resume": Rule(lambda _: True, TOO_MANY | refused("nothing is in it", invalid("envelopes")) | OK),
    "resume[]": Rule(username),
    # As many as there are envelopes, and here there is none.
    "trace_contexts": Rule(size_between(0, 0)),
}
FIRST_RULES = {
    "start": Rule(lambda value: value == {}),
    "start.max_unacknowledged": Rule(number(0, 256)),
    "acknowledge": Rule(never, named="start"),
}
LATER_RULES = {
    "start": Rule(never, named="acknowledge"),
    "acknowledge": Rule(lambda value: value == {}),
    "acknowledge.delivery_ids": Rule(size_between(0, 256)),
    "acknowledge.delivery_ids[]": Rule(form(r"[0-9]{1,19}-[0-9]{1,19}")),
}


def batching(channel: grpc.aio.Channel, metadata: Callable[[], Any]) -> Call:
    """Return how SendStream is called with one envelope: its batch has the bytes of a SendRequest."""
    stub: Any = channel.stream_stream(STREAM, response_deserializer=pb.SendStreamResponse.FromString)

    async def call(raw: bytes) -> None:
        async for response in stub(iter([raw or EMPTY_BATCH]), metadata=metadata()):
            for refusal in (result.refusal for result in response.results if result.HasField("refusal")):
                code, named = CODES[refusal.code], refusal.metadata.get("field")
                raise RefusedWithinError(f"{code}/{refusal.reason}" + (f"@{named}" if named else ""))

    return call


def exchanges_of(device: SimulatedDevice, channel: grpc.aio.Channel) -> dict[str, Exchange]:
    """Return the exchanges of a device."""
    start = pb.ReceiveRequest(start=pb.Start(max_unacknowledged=1))
    acknowledge = pb.ReceiveRequest(acknowledge=pb.Acknowledge(delivery_ids=["1-1", "2-0"]))

    resume = pb.SendStreamRequest(resume=["bob", "carol"])

    async def send() -> Any:
        return pb.SendRequest(envelope=device.envelope("bob"))

    first = conversing(channel, RECEIVE, [], device.metadata)
    later = conversing(channel, RECEIVE, [start.SerializeToString()], device.metadata)
    return {
        SEND: Exchange(unary(channel, SEND, device.metadata), send, SEND_RULES, bounds=BOUNDS),
        BATCH: Exchange(batching(channel, device.metadata), send, SEND_RULES, bounds=BOUNDS),
        RESUME: Exchange(conversing(channel, STREAM, [], device.metadata), made(resume), RESUME_RULES),
        BEGIN: Exchange(first, made(start), FIRST_RULES),
        GO_ON: Exchange(later, made(acknowledge), LATER_RULES),
        LIST: Exchange(unary(channel, LIST, device.metadata), made(pb.ListMailboxesRequest()), {}),
    }


@contextlib.asynccontextmanager
async def open_surface(folder: Path) -> AsyncIterator[Surface]:
    """Serve a replica and return its surface, as a device of Alice sees it; Bob has two."""
    output = io.StringIO()
    log = make_logger("delivery", "info", "json", output)
    async with open_stack(folder) as stack:
        alice, bob = stack.realm.enroll("alice"), stack.realm.enroll("bob")
        stack.realm.approve(bob)
        settings = stack.settings(log_level="info", **UNLIMITED)
        async with running("delivery", settings, compose, clock=stack.clock, log=log) as service:
            await stack.directory.watching.wait()
            root = grpc.ssl_channel_credentials((folder / "tls" / "public-root.pem").read_bytes())
            async with grpc.aio.secure_channel(f"127.0.0.1:{service.public_port}", root) as channel:
                device = SimulatedDevice(stack, alice, None)
                yield Surface(exchanges_of(device, channel), output)
