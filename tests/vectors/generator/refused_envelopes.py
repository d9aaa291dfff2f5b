"""Envelopes with a single thing wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes

from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.protocol import rsa
from keypost.protocol.encoding import sha256
from keypost.protocol.extension import DeviceKey
from keypost.protocol.identifiers import Address
from keypost.protocol.suites import STRONG, WEAK
from support.realm import device_id
from vectors.generator.files import flipped
from vectors.generator.talk import NONCE, SIGNED

if TYPE_CHECKING:
    from collections.abc import Callable

    from vectors.generator.negotiation import Maker

OTHER_ID = bytes(32)


def add(maker: Maker) -> None:
    """Add all of them."""
    if maker.suite is WEAK:  # the suite makes no difference to these, and weak envelopes are small
        _disagreements(maker)
        _malformed(maker)
        _misdirected(maker)
        _contents(maker)
    _sealed_keys(maker)
    _names_of_the_key(maker)
    _signatures(maker)
    _altered(maker)


def _disagreements(maker: Maker) -> None:
    different: dict[str, Any] = {
        "realm": "evil.org",
        "sender": Address("alice", device_id(30)),
        "recipient_username": "carol",
        "key_id": OTHER_ID,
        "sender_revision": 9,
        "recipient_revision": 9,
    }
    for name, value in different.items():
        maker.refuse("HEADER_MISMATCH", f"header and extension differ in {name}", maker.draft(in_header={name: value}))
    other = maker.draft(in_extension={"realm": "evil.org"})
    maker.refuse("HEADER_MISMATCH", "of another realm", other)


def _misdirected(maker: Maker) -> None:
    talk = maker.talk
    maker.refuse("NOT_FOR_THIS_DEVICE", "for another user", maker.draft(), talk.carol)
    away = DeviceKey(talk.bob.address, talk.carol.fingerprint)
    unlisted = maker.draft(in_extension={"recipient_devices": (away,)})
    maker.refuse("NOT_FOR_THIS_DEVICE", "the statement lists another key of this device", unlisted)
    without = maker.draft(edit=lambda made: made.key_extension.ClearField("sealed_keys"))
    maker.refuse("NOT_FOR_THIS_DEVICE", "no sealed key", without)


def _sealed_keys(maker: Maker) -> None:
    talk, key = maker.talk, maker.draft().session.key
    carols = talk.keys("carol")[0]

    def replace_sealed(made: pb.Envelope) -> None:
        made.key_extension.sealed_keys[0].sealed_key = carols.suite.seal(carols.public_key, key)

    def alter_sealed(made: pb.Envelope) -> None:
        sealed = made.key_extension.sealed_keys[0]
        sealed.sealed_key = flipped(sealed.sealed_key, -1)

    for name, edit in (("sealed to another key", replace_sealed), ("altered", alter_sealed)):
        maker.refuse("SESSION_KEY_REFUSED", f"the sealed key is {name}", maker.draft(edit=edit))
    for name, bad in (("short", key[:-1]), ("long", key + b"\0"), ("the other suite's length", _other_length(maker))):
        maker.refuse("SESSION_KEY_REFUSED", f"the session key is {name}", maker.draft(sealed=bad))


def _other_length(maker: Maker) -> bytes:
    return bytes((WEAK if maker.suite is STRONG else STRONG).session_key_bytes)


def _names_of_the_key(maker: Maker) -> None:
    talk, session = maker.talk, maker.draft().session
    maker.refuse("KEY_ID_MISMATCH", "another session key is sealed", maker.draft(sealed=flipped(session.key)))
    changes: dict[str, Any] = {
        "key_id": OTHER_ID,
        "creator": DeviceKey.of(talk.bob),
        "session_create_time": session.create_time + 1,
    }
    for name, value in changes.items():
        draft = maker.draft(in_extension={name: value})
        maker.refuse("KEY_ID_MISMATCH", f"{name} is another, and signed so", draft)


def _signatures(maker: Maker) -> None:
    talk, suite = maker.talk, maker.suite
    hashed = sha256(maker.draft().session.key)
    carol = talk.carol.private_key
    forged = maker.draft(signature=lambda statement: suite.sign_extension(carol, statement, hashed))
    maker.refuse("SIGNATURE_INVALID", "signed by another key", forged)
    empty = maker.draft(signature=lambda _: b"")
    maker.refuse("SIGNATURE_INVALID", "not signed", empty)
    other_key = sha256(flipped(maker.draft().session.key))
    alice = talk.alice.private_key
    wrong_key = maker.draft(signature=lambda statement: suite.sign_extension(alice, statement, other_key))
    maker.refuse("SIGNATURE_INVALID", "the signature is of another session key", wrong_key)
    _forwarding(maker, hashed)
    second = maker.draft(in_extension={"sign_time": SIGNED + 1})
    known = maker.draft().extension().to_bytes().hex()
    maker.refuse("SECOND_STATEMENT", "a second statement of the signer", second, known_statement=known)


def _forwarding(maker: Maker, hashed: bytes) -> None:
    """Bob passes Alice's session key on to Carol, with Alice's signature, as if Alice had written to her."""
    talk, suite = maker.talk, maker.suite
    alice = talk.alice.private_key
    original = maker.draft().extension().to_bytes()
    signature = suite.sign_extension(alice, original, hashed)
    session = talk.session(talk.alice, "carol")
    draft = maker.draft(session=session, recipient="carol", signature=lambda _: signature)
    if suite is STRONG:
        maker.refuse("SIGNATURE_INVALID", "a session key passed on to a third person", draft, talk.carol)
        alone = maker.draft(signature=lambda _: rsa.sign_digest(alice, hashed, rsa.PSS, hashes.SHA256()))
        maker.refuse("SIGNATURE_INVALID", "a signature of the session key alone", alone)
    else:
        # The weakness of the source document's suite, kept to the letter, and why it is off by default.
        maker.accept("a session key passed on to a third person: Carol believes it", draft, talk.carol)


def _altered(maker: Maker) -> None:
    edits: dict[str, Callable[[pb.Envelope], object]] = {
        "ciphertext": lambda made: setattr(made, "ciphertext", flipped(made.ciphertext)),
        "tag": lambda made: setattr(made, "ciphertext", flipped(made.ciphertext, -1)),
        "nonce": lambda made: setattr(made, "nonce", flipped(NONCE)),
        "header (counter)": lambda made: _edit_header(made, counter=2),
        "header (send_time)": lambda made: _edit_header(made, send_time=1),
        "header (an unknown field)": lambda made: setattr(made, "header", made.header + b"\xf8\x07\x01"),
    }
    for name, edit in edits.items():
        if maker.suite is WEAK or name in ("ciphertext", "header (counter)"):
            maker.refuse("DECRYPTION_FAILED", f"altered: {name}", maker.draft(edit=edit))
    # The weak suite's signature does not cover the statement; there the encryption alone does.
    reason = "SIGNATURE_INVALID" if maker.suite is STRONG else "DECRYPTION_FAILED"
    maker.refuse(reason, "altered: extension (sign_time)", maker.draft(edit=_edit_extension))


def _edit_header(made: pb.Envelope, **changes: int) -> None:
    header = pb.Header.FromString(made.header)
    for name, value in changes.items():
        setattr(header, name, value)
    made.header = header.SerializeToString()


def _edit_extension(made: pb.Envelope) -> None:
    extension = pb.Extension.FromString(made.key_extension.extension)
    extension.sign_time += 1
    made.key_extension.extension = extension.SerializeToString()


def _contents(maker: Maker) -> None:
    for name, content in (("no message", b"\xff"), ("of no kind", b""), ("of an unknown kind", b"\xfa\x07\x00")):
        maker.refuse("CONTENT_REFUSED", f"content {name}", maker.draft(content=content))


def _malformed(maker: Maker) -> None:
    bob = DeviceKey.of(maker.talk.bob)
    # Device ids are ordered by their ASCII bytes: digits come before letters.
    earlier = DeviceKey(Address("bob", device_id(30)), OTHER_ID)
    in_header: dict[str, tuple[str, Any]] = {
        "a message_id that is no UUIDv7": ("message_id", bytes(16)),
        "a message_id of 15 bytes": ("message_id", bytes(15)),
        "counter 0": ("counter", 0),
        "send_time 0": ("send_time", 0),
    }
    for name, (key, value) in in_header.items():
        maker.refuse("MALFORMED_STATEMENT", name, maker.draft(in_header={key: value}))
    in_extension: dict[str, tuple[str, Any]] = {
        "a key_id of 31 bytes": ("key_id", bytes(31)),
        "sign_time 0": ("sign_time", 0),
        "revision 0": ("sender_revision", 0),
        "no recipient device": ("recipient_devices", ()),
        "recipient devices in another order": ("recipient_devices", (bob, earlier)),
        "a recipient device twice": ("recipient_devices", (bob, bob)),
        "a recipient device of another user": ("recipient_devices", (DeviceKey.of(maker.talk.carol),)),
        "a creator who has no part": ("creator", DeviceKey.of(maker.talk.carol)),
    }
    for name, (key, value) in in_extension.items():
        maker.refuse("MALFORMED_STATEMENT", name, maker.draft(in_extension={key: value}))
    edits: dict[str, Callable[[pb.Envelope], object]] = {
        "a nonce of 11 bytes": lambda made: setattr(made, "nonce", NONCE[:-1]),
        "no ciphertext": lambda made: setattr(made, "ciphertext", b""),
        "a header of more than 4 KiB": lambda made: setattr(
            made, "header", made.header + b"\xfa\x07\xff\x1f" + bytes(4095)
        ),
        "a header that is no message": lambda made: setattr(made, "header", b"\xff"),
    }
    for name, edit in edits.items():
        maker.refuse("MALFORMED_STATEMENT", name, maker.draft(edit=edit))
    maker.refuse("SUITE_UNKNOWN", "an unknown suite", maker.draft(edit=_unknown_suite))
    other = WEAK if maker.suite is STRONG else STRONG
    claimed = maker.draft(in_extension={"suite": other})
    maker.refuse("SUITE_REFUSED", "the signer's key is of another suite than the session", claimed)


def _unknown_suite(made: pb.Envelope) -> None:
    extension = pb.Extension.FromString(made.key_extension.extension)
    extension.suite = 99  # type: ignore[assignment]  # an enum that this version does not know
    made.key_extension.extension = extension.SerializeToString()
