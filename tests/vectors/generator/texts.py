"""Vectors of what people carry from one device to another: invitations and requests as text."""

from __future__ import annotations

from keypost.protocol.encoding import sha256
from keypost.protocol.identifiers import Address
from keypost.protocol.invitations import Invitation
from keypost.protocol.texts import TextKind, from_text, to_text
from support.clock import START
from support.realm import REALM, device_id
from vectors.generator.files import VectorFile

INVITATION = Invitation(
    realm=REALM,
    address=Address("alice", device_id(2)),
    ca_nonce=sha256(b"a nonce"),
    epoch=1,
    revision=2,
    create_time=START,
    parent_fingerprint=sha256(b"the parent of alice"),
    root=sha256(b"the root of alice"),
)
LENGTHS = (0, 1, 2, 3, 4, 5, 255, 256, 1_000)


def texts_file() -> VectorFile:
    file = VectorFile(
        "texts",
        "`kind` and `message` give `text`, and the text, or what is `read`, gives the message. The message of `the "
        "invitation` is an `Invitation`; the others are any bytes.",
        "Enrolment",
        deterministic=True,
    )
    text = INVITATION.text
    _good(file, "the invitation", TextKind.INVITATION, from_text(TextKind.INVITATION, text))
    for length in LENGTHS:
        _good(file, f"a request of {length} bytes", TextKind.REQUEST, bytes(at % 251 for at in range(length)))
    for name, read in {"small letters": text.lower(), "line breaks": "\r\n ".join((text[:70], text[70:]))}.items():
        file.good(name, kind="invitation", message=from_text(TextKind.INVITATION, text).hex(), read=read)
    for name, read in _no_invitations(text).items():
        file.fails("MALFORMED_STATEMENT", name, kind="invitation", read=read)
    return file


def _good(file: VectorFile, name: str, kind: TextKind, message: bytes) -> None:
    file.good(name, kind=kind.value, message=message.hex(), text=to_text(kind, message))


def _no_invitations(text: str) -> dict[str, str]:
    return {
        "nothing": "",
        "a request": to_text(TextKind.REQUEST, b"a request"),
        "a newer version": text.replace("-1:", "-2:", 1),
        "the end is missing": text[:-1],
        "the beginning is missing": text[1:],
        "something behind it": text + "A",
        "another letter": text[:60] + ("A" if text[60] != "A" else "B") + text[61:],
        "two letters changed over": text[:60] + text[61] + text[60] + text[62:],
        "a digit that is none": text[:60] + "1" + text[61:],
        "padding": text + "=",
        "spare bits that are set": _spare_bits_set(to_text(TextKind.INVITATION, b"x")),
    }


def _spare_bits_set(text: str) -> str:
    return text[:-1] + chr(ord(text[-1]) + 1)
