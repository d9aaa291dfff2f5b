"""Envelopes by the protocol's own functions, honest or with what a test changes; and how their recipient opens them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keypost.delivery.v1 import envelope_pb2
from keypost.protocol import negotiation as steps
from keypost.protocol.envelope import Header, read_envelope
from keypost.protocol.extension import DeviceKey, Session
from keypost.protocol.identifiers import conversation_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.protocol.key_info import Key
    from keypost.protocol.key_requests import DeviceKeyPair

_numbers = itertools.count(1)


def new_message_id() -> bytes:
    """Return a UUIDv7 that no other message has."""
    return (1_800_000_000_000).to_bytes(6, "big") + b"\x70\x00\x80\x00" + next(_numbers).to_bytes(6, "big")


def new_header(realm: str, sender: DeviceKeyPair, recipient: str, now: int, **values: Any) -> Header:
    """Return the header of a message; ``values`` has the revisions, and whatever else is not as usual."""
    usual: dict[str, Any] = {
        "realm": realm,
        "message_id": new_message_id(),
        "sender": sender.address,
        "recipient_username": recipient,
        "key_id": bytes(32),
        "counter": next(_numbers),
        "send_time": now,
    }
    return Header(**(usual | values))


def seal(
    header: Header,
    signer: DeviceKeyPair,
    keys: Sequence[Key],
    text: str = "hello",
    *,
    now: int,
    header_alone: dict[str, Any] | None = None,
    creator: DeviceKey | None = None,
    create_time: int | None = None,
) -> envelope_pb2.Envelope:
    """Return an envelope under a new session (steps 4 to 7).

    Args:
        header: Its header; what the extension has too, it has from here.
        signer: Signs the extension.
        keys: Whom the session key is sealed to.
        text: What it says.
        now: Unix milliseconds.
        header_alone: What the header says that the extension does not.
        creator: Who created the session, if not the signer.
        create_time: When, if not now.
    """
    session = Session.create(
        header.realm,
        conversation_of(header.sender.username, header.recipient_username),
        signer.suite,
        creator or DeviceKey.of(signer),
        now if create_time is None else create_time,
        bytes(signer.suite.session_key_bytes),
    )
    header = replace(header, key_id=session.key_id)
    signed = steps.step_6_sign_session_key(
        session,
        signer,
        recipients=keys,
        sender_revision=header.sender_revision,
        recipient_revision=header.recipient_revision,
        sign_time=now,
    )
    return steps.step_7_attach_to_message(
        replace(header, **(header_alone or {})),
        envelope_pb2.Content(message=envelope_pb2.Message(body=text.encode())),
        session=session,
        signed_extension=signed,
        sealed_keys=steps.step_5_encrypt_session_key(session.key, keys),
        nonce=next(_numbers).to_bytes(12, "big"),
    )


def open_text(envelope: bytes, reader: DeviceKeyPair) -> str:
    """Open an envelope as its recipient does (steps 10 to 14, without the sender's record)."""
    sealed = read_envelope(envelope_pb2.Envelope.FromString(envelope))
    extension = sealed.signed_extension.extension
    session_key = steps.step_11_decrypt_session_key(steps.step_10_extract_sealed_key(sealed, reader), reader, extension)
    _, session = steps.step_12_hash_session_key(session_key, extension)
    return steps.step_14_decrypt_message(sealed, session).message.body.decode()
