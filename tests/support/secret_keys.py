"""What is secret: the keys of a stack and of profiles, read out of where they are at home."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keypost.client.storing import to_session
from keypost.keystore import Passphrase
from keypost.keystore.database import conversation_from
from keypost.protocol.extension import DeviceKey
from keypost.protocol.rsa import private_key_from_der
from support.secret_scan import Secret, of_ec_key, of_rsa_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keypost.keystore import Unlock
    from keypost_services.embedded.stack import Stack


def server_secrets(stack: Stack) -> Iterator[Secret]:
    """Yield the private keys of the realm and of TLS, each at home in its own file, and the secret of the nonces."""
    folder = stack.layout.folder
    for path in sorted(folder.rglob("*.key")):
        home = frozenset({path.relative_to(folder).as_posix()})
        pem = path.read_bytes()
        key: Any = serialization.load_pem_private_key(pem, None)
        if isinstance(key, Ed25519PrivateKey):
            yield Secret(f"private key {path.name}", key.private_bytes_raw(), home)
        else:
            yield from of_ec_key(f"private key {path.parent.name}/{path.name}", key, home)
    if not stack.layout.shape.postgres:
        yield Secret("nonce secret", _nonce_secret(stack), frozenset({"ca.db", "ca.db-wal"}))


def _nonce_secret(stack: Stack) -> bytes:
    with closing(sqlite3.connect(f"file:{stack.layout.folder / 'ca.db'}?mode=ro", uri=True)) as connection:
        row: tuple[bytes] = connection.execute("SELECT value FROM secrets WHERE name = 'nonces'").fetchone()
    return row[0]


def store_secrets(store: Any, unlock: Unlock) -> Iterator[Secret]:
    database = store._database
    yield Secret("data key", bytes(database.sealer._data_key))
    if isinstance(unlock, Passphrase):
        yield Secret("derived key", bytes(unlock.derive(database.one("SELECT parameters FROM unlock")[0])))
    pairs = [pair for pair in (store.key_pairs.current(), *store.key_pairs.replaced()) if pair is not None]
    signers = [DeviceKey(store.profile.read().address, pair.fingerprint) for pair in pairs]
    for pair in pairs:
        yield from of_rsa_key("private key", private_key_from_der(pair.private_key_der))
    for session in _sessions(store):
        yield Secret("session key", session.session_key)
        opened = to_session(session, store.profile.read().realm)
        for signer in {opened.creator, *signers}:
            yield Secret("message key", opened.message_key(signer))


def _sessions(store: Any) -> Iterator[Any]:
    for (text,) in store._database.all("SELECT conversation FROM conversations"):
        yield from store.sessions.newest(conversation_from(text))
