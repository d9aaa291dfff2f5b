"""What takes the place of a defence of messages and sessions: the same without the defence."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keypost.client import opening as o
from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.keystore.values import Evidence
from keypost.protocol.errors import ContentRefusedError
from keypost.protocol.padding import LENGTH_BYTES
from keypost.protocol.rsa import OAEP
from keypost.protocol.sessions import is_fit
from keypost.protocol.suites import STRONG, WEAK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from keypost.protocol.envelope import SealedEnvelope
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost.protocol.suites import Suite


def no_associated_data(_header: bytes, _extension: bytes) -> bytes:
    return b""


def header_alone(header: bytes, _extension: bytes) -> bytes:
    return header


def open_whatever_comes(private_key: RSAPrivateKey, sealed: bytes) -> bytes:
    try:
        return private_key.decrypt(sealed, OAEP)
    except ValueError:
        return bytes(STRONG.session_key_bytes if private_key.key_size == STRONG.key_bits else WEAK.session_key_bytes)


def decrypt_without_tag(suite: Suite, key: bytes, nonce: bytes, ciphertext: bytes, _associated_data: bytes) -> bytes:
    counter = modes.CTR(nonce + (2).to_bytes(4, "big"))
    plaintext = Cipher(algorithms.AES(key), counter).decryptor().update(ciphertext[:-16])
    return suite.unpad(plaintext)


def parse_alone(content: bytes, _conversation: tuple[str, str]) -> pb.Content:
    return pb.Content.FromString(content)


def leave_what_is_padded(padded: bytes) -> bytes:
    return padded


def take_it_for_text(content: bytes, _conversation: tuple[str, str]) -> pb.Content:
    return pb.Content(message=pb.Message(body=content))


def take_whatever_is_sealed(sealed: SealedEnvelope, key_pair: DeviceKeyPair) -> bytes:
    return next(key.sealed_key for key in sealed.sealed_keys if key.fingerprint == key_pair.fingerprint)


def cut_at_the_length(padded: bytes) -> bytes:
    size = int.from_bytes(padded[:LENGTH_BYTES], "big")
    return padded[LENGTH_BYTES : LENGTH_BYTES + size]


def keep_the_session_at_once(store: Any, opening: Any, log: Any, _outcome: Any) -> None:
    o._keep_session(store, opening.sealed, o._session(store, opening, opening.sealed, opening.sender_record, log))


def stop_at_what_does_not_open(store: Any, opening: Any) -> Any:
    outcome = o.attempt(store, opening)
    if outcome.error is not None:
        # Neither kept nor acknowledged it comes again with each stream; a failure that is final ends the test.
        raise ContentRefusedError("the client stops at this message") from outcome.error
    return outcome


def find_the_file_of_anybody(files: Any, _sender: Any, file_id: bytes) -> Any:
    row = files._database.one(
        "SELECT id, sender, file_id, count, size, received, description FROM files WHERE file_id = ?", file_id
    )
    return None if row is None else (row[0], files._read(row))


@asynccontextmanager
async def count_as_delivery_does(_context: Any, _raw: bytes) -> AsyncIterator[int]:
    yield 1_000


def evidence_about_oneself(own: Any, signed: Any, now: int) -> Evidence:
    statement = signed.to_message(()).SerializeToString()
    return Evidence(own.username, "DEVICES_DIFFER", own.key_info.SerializeToString(), statement, now)


def choose_the_oldest_session(candidates: Any, situation: Any) -> Any:
    return min((one for one in candidates if is_fit(one, situation)), key=lambda one: one.session.create_time)
