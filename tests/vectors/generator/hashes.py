"""Vectors of what is computed without a key pair: encoding, padding, names, derived keys."""

from __future__ import annotations

from keypost.protocol import rsa
from keypost.protocol.encoding import KEY_ID, MESSAGE_KEY, int_bytes, pae, sha256
from keypost.protocol.envelope import associated_data
from keypost.protocol.extension import DeviceKey, Session, key_id_of
from keypost.protocol.identifiers import Address, conversation_of
from keypost.protocol.padding import pad, padded_size
from keypost.protocol.suites import STRONG, WEAK, Suite
from support.keys import SIZES, pooled_key
from support.realm import REALM, device_id
from vectors.generator.files import VectorFile, flipped

USED_KEYS = {STRONG: 6, WEAK: 5}
CREATE_TIME = 1_800_000_000_000


def pae_file() -> VectorFile:
    file = VectorFile("pae", "The encoding of pieces, hexadecimal.", "Encoding", deterministic=True)
    lists: dict[str, list[bytes]] = {
        "no piece": [],
        "one empty piece": [b""],
        "one piece": [b"keypost"],
        "two pieces": [b"keypost/v1/user-keys", bytes(range(10))],
        "a boundary": [b"a", b"bc"],
        "the same bytes, another boundary": [b"ab", b"c"],
        "a piece of 256 bytes": [b"\xff" * 256],
    }
    for name, pieces in lists.items():
        file.good(name, pieces=[piece.hex() for piece in pieces], encoding=pae(*pieces).hex())
    return file


def padding_file() -> VectorFile:
    file = VectorFile(
        "padding",
        "`size` cases: the size of the framed content (8 bytes of length and the content) and the padded size. "
        "`content` cases: content and padded plaintext, hexadecimal. What must fail is taken away, not made.",
        "Padding",
        deterministic=True,
    )
    for size in (8, 255, 256, 257, 264, 265, 511, 512, 513, 1000, 1023, 1024, 1025, 4097, 65_535, 65_537, 262_145):
        file.good(f"size {size}", size=size, padded_size=padded_size(size))
    for content in (b"", b"\0", b"hello", b"x" * 248, b"x" * 249):
        file.good(f"content of {len(content)} bytes", content=content.hex(), padded=pad(content).hex())
    good = pad(b"hello")
    broken = {
        "nothing": b"",
        "shorter than 256 bytes": good[:-1],
        "a byte longer than it has to be": good + b"\0",
        "padding that is not zero": flipped(good, -1),
        "a length beyond the end": int_bytes(249) + good[8:],
        "a length beyond everything": b"\xff" * 8 + good[8:],
        "a length before the end of the content": int_bytes(4) + good[8:],
        "padded further than Padme would": good.ljust(512, b"\0"),
    }
    for name, padded in broken.items():
        file.fails("CONTENT_REFUSED", name, padded=padded.hex())
    return file


def keys_file() -> VectorFile:
    file = VectorFile(
        "keys",
        "The key pairs that the other files name. The private keys are public and protect nothing.",
        "Suites; Encoding",
        deterministic=True,
    )
    for suite, count in USED_KEYS.items():
        for index in range(min(count, SIZES[suite.name])):
            private_key = pooled_key(suite, index)
            der = rsa.public_key_der(private_key)
            file.good(
                key_name(suite, index),
                suite=suite.name,
                private_key_der=rsa.private_key_to_der(private_key).hex(),
                public_key_der=der.hex(),
                fingerprint=sha256(der).hex(),
            )
    return file


def key_name(suite: Suite, index: int) -> str:
    """Return the name of a pooled key in ``keys.json``."""
    return f"{'strong' if suite is STRONG else 'weak'}-{index}"


def _device(username: str, number: int, suite: Suite, index: int) -> DeviceKey:
    der = rsa.public_key_der(pooled_key(suite, index))
    return DeviceKey(Address(username, device_id(number)), sha256(der))


def key_id_file() -> VectorFile:
    file = VectorFile("key_id", "The name of a session key.", "Sessions", deterministic=True)
    for suite in (STRONG, WEAK):
        session_key = bytes(range(suite.session_key_bytes))
        for creator, peer in (("alice", "bob"), ("bob", "alice"), ("alice", "alice"), ("a.b+c@d", "zoe")):
            device = _device(creator, 1, suite, 0)
            users = conversation_of(creator, peer)
            pieces = [
                KEY_ID,
                REALM.encode(),
                suite.name.encode(),
                str(device.address).encode(),
                device.fingerprint,
                *(user.encode() for user in users),
                int_bytes(CREATE_TIME),
                session_key,
            ]
            file.good(
                f"{suite.name}: {creator} creates with {peer}",
                suite=suite.name,
                realm=REALM,
                creator=str(device.address),
                creator_fingerprint=device.fingerprint.hex(),
                peer=peer,
                session_create_time=CREATE_TIME,
                session_key=session_key.hex(),
                encoding=pae(*pieces).hex(),
                key_id=key_id_of(REALM, suite, device, users, CREATE_TIME, session_key).hex(),
            )
    return file


def message_key_file() -> VectorFile:
    file = VectorFile("message_key", "The key that encrypts one device's messages.", "Messages", deterministic=True)
    for suite in (STRONG, WEAK):
        creator = _device("alice", 1, suite, 0)
        key = bytes(range(suite.session_key_bytes))
        session = Session.create(REALM, ("alice", "bob"), suite, creator, CREATE_TIME, key)
        for sender in (creator, _device("bob", 2, suite, 1)):
            context = [REALM.encode(), suite.name.encode(), session.key_id, str(sender.address).encode()]
            file.good(
                f"{suite.name}: {sender.address.username} sends",
                suite=suite.name,
                realm=REALM,
                key_id=session.key_id.hex(),
                sender=str(sender.address),
                sender_fingerprint=sender.fingerprint.hex(),
                session_key=key.hex(),
                info=pae(MESSAGE_KEY, *context, sender.fingerprint).hex() if suite is STRONG else None,
                message_key=session.message_key(sender).hex(),
            )
    return file


def associated_data_file() -> VectorFile:
    file = VectorFile(
        "associated_data", "What the encryption authenticates beside the content.", "Messages", deterministic=True
    )
    for header, extension in ((b"", b""), (b"header", b"extension"), (bytes(100), bytes(300))):
        file.good(
            f"{len(header)} and {len(extension)} bytes",
            header=header.hex(),
            extension=extension.hex(),
            extension_hash=sha256(extension).hex(),
            associated_data=associated_data(header, extension).hex(),
        )
    return file
