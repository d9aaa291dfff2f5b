"""Envelopes as they are handed in: what all of one session share is read once, and each for itself is little work.

A key extension that was read before, byte for byte, is not read again: whether it is well-formed is a question of its
bytes alone. Whether anybody may send by it is another one, asked of each batch (``judging``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachetools import LRUCache
from google.protobuf.message import DecodeError

from keypost.delivery.v1 import envelope_pb2
from keypost.protocol.encoding import LARGEST_NUMBER, int_bytes, sha256
from keypost.protocol.envelope import MOST_ENVELOPE_BYTES, MOST_HEADER_BYTES, is_message_id
from keypost.protocol.suites import NONCE_BYTES
from keypost_services.delivery import convert
from keypost_services.runtime.errors import invalid_field

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keypost.delivery.v1 import delivery_service_pb2 as pb
    from keypost.protocol.envelope import SealedEnvelope
    from keypost.protocol.extension import Extension

MOST_KEPT_BYTES = 32 * 1024 * 1024
BYTES_PER_EXTENSION = 4_096
Conversation = tuple[str, int, int]
"""The recipient, and both revisions; the sender is the caller."""


@dataclass(frozen=True, eq=False)
class KnownExtension:
    """A key extension whose parts are well-formed and agree with each other.

    Attributes:
        extension: What its statement says.
        sealed_keys: For each key that it is sealed to, by fingerprint, the length of the sealed key.
        for_key: For each of them a serialised Envelope with nothing but the key extension, and in it that key alone.
        conversation: What a refusal holds.
    """

    extension: Extension
    conversation: Conversation
    sealed_keys: Sequence[tuple[bytes, int]]
    for_key: Mapping[bytes, bytes] = field(repr=False)
    _digest_head: bytes = field(repr=False)
    _digest_middle: bytes = field(repr=False)
    _digest_tail: bytes = field(repr=False)

    @classmethod
    def of(cls, sealed: SealedEnvelope) -> KnownExtension:
        """Return that of an envelope that was read."""
        signed, keys = sealed.signed_extension, sealed.sealed_keys
        return cls(
            extension=signed.extension,
            conversation=(
                signed.extension.recipient_username,
                signed.extension.sender_revision,
                signed.extension.recipient_revision,
            ),
            sealed_keys=tuple((key.fingerprint, len(key.sealed_key)) for key in keys),
            for_key={
                key.fingerprint: envelope_pb2.Envelope(key_extension=signed.to_message([key])).SerializeToString()
                for key in keys
            },
            _digest_head=int_bytes(5 + 2 * len(keys)),
            _digest_middle=_pieces(signed.statement, signed.signature),
            _digest_tail=_pieces(*(piece for key in keys for piece in (key.fingerprint, key.sealed_key))),
        )

    @property
    def memory(self) -> int:
        """About how many bytes of memory this takes, with the bytes that it was read from."""
        return BYTES_PER_EXTENSION + 3 * len(self._digest_middle) + 4 * len(self._digest_tail)

    def fits(self, header: envelope_pb2.Header) -> bool:
        """Return whether a header names what the statement names, whose values are known to be ones that there are."""
        extension, sender = self.extension, header.sender
        signer = extension.signer.address
        return (
            header.key_id == extension.key_id
            and header.sender_revision == extension.sender_revision
            and header.recipient_revision == extension.recipient_revision
            and header.recipient_username == extension.recipient_username
            and sender.username == signer.username
            and sender.device_id == signer.device_id
            and header.realm == extension.realm
        )

    def digest(self, header: bytes, nonce: bytes, ciphertext: bytes) -> bytes:
        """Return 32 bytes that tell a repetition of an envelope from another one under the same message id.

        SHA-256 of PAE(header, statement, signature, nonce, ciphertext, and fingerprint and sealed key of each key).
        """
        pieces = (self._digest_head, _piece(header), self._digest_middle, _pieces(nonce, ciphertext), self._digest_tail)
        return sha256(b"".join(pieces))


def _piece(piece: bytes) -> bytes:
    return int_bytes(len(piece)) + piece


def _pieces(*pieces: bytes) -> bytes:
    return b"".join(map(_piece, pieces))


@dataclass(slots=True, eq=False)
class Incoming:
    """An envelope that is well-formed; nothing in it is verified yet.

    Attributes:
        known: Its key extension.
        message_id: 16 bytes.
        send_time: By the sender's clock, Unix milliseconds.
        digest: 32 bytes that tell a repetition from another envelope under the same message id.
        own: A serialised Envelope with everything but the key extension.
        trace_context: The trace in which it is recorded; empty: in none.
    """

    known: KnownExtension
    message_id: bytes
    send_time: int
    digest: bytes
    own: bytes = field(repr=False)
    trace_context: str = ""

    def for_key(self, fingerprint: bytes) -> bytes:
        """Return the serialised Envelope for the device with this key: with its own sealed key alone."""
        # Serialised messages one behind the other are the message that has the fields of all of them.
        return self.known.for_key[fingerprint] + self.own


class Envelopes:
    """Reads envelopes.

    Args:
        realm: The realm.
        most_bytes: About how much memory the key extensions may take that are kept.
    """

    def __init__(self, realm: str, *, most_bytes: int = MOST_KEPT_BYTES) -> None:
        self._realm = realm
        self._known: LRUCache[bytes, KnownExtension] = LRUCache(most_bytes, getsizeof=lambda known: known.memory)

    def read_send(self, request: pb.SendRequest) -> Incoming:
        """Return the envelope of a Send.

        Raises:
            ServiceError: INVALID_FIELD, ENVELOPE_TOO_LARGE, HEADER_MISMATCH.
        """
        if not request.HasField("envelope"):
            raise invalid_field("envelope", "must be set")
        return self.read(request.envelope)

    def read(self, envelope: envelope_pb2.Envelope) -> Incoming:
        """Return an envelope whose parts are well-formed and agree with each other.

        Raises:
            ServiceError: INVALID_FIELD, ENVELOPE_TOO_LARGE, HEADER_MISMATCH.
        """
        serialised = envelope.key_extension.SerializeToString()
        known = self._known.get(serialised)
        if known is not None and (incoming := _read_quickly(envelope, known)) is not None:
            return incoming
        sealed = convert.read_envelope(envelope, self._realm)  # says precisely what is wrong, if anything is
        if known is None:
            known = KnownExtension.of(sealed)
            if known.memory <= self._known.maxsize:
                self._known[serialised] = known
        return _incoming(envelope, known, sealed.header.message_id, sealed.header.send_time)


def _read_quickly(envelope: envelope_pb2.Envelope, known: KnownExtension) -> Incoming | None:
    """Return an envelope of a known extension; None if anything about it is out of the ordinary."""
    serialised = envelope.header
    if len(serialised) > MOST_HEADER_BYTES:
        return None
    try:
        header = envelope_pb2.Header.FromString(serialised)
    except DecodeError:
        return None
    is_sound = (
        len(envelope.nonce) == NONCE_BYTES
        and len(envelope.ciphertext) >= convert.TAG_BYTES
        and known.fits(header)
        and is_message_id(header.message_id)
        and 0 < header.counter <= LARGEST_NUMBER
        and 0 < header.send_time <= LARGEST_NUMBER
        and envelope.ByteSize() <= MOST_ENVELOPE_BYTES
    )
    return _incoming(envelope, known, header.message_id, header.send_time) if is_sound else None


def _incoming(envelope: envelope_pb2.Envelope, known: KnownExtension, message_id: bytes, send_time: int) -> Incoming:
    header, nonce, ciphertext = envelope.header, envelope.nonce, envelope.ciphertext
    own = envelope_pb2.Envelope(header=header, nonce=nonce, ciphertext=ciphertext).SerializeToString()
    return Incoming(known, message_id, send_time, known.digest(header, nonce, ciphertext), own)
