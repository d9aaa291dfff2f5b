"""Between what the protocol works with and what the key store keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.delivery.v1 import envelope_pb2
from keypost.keystore.values import OwnExtension, StoredSession, StoredStatement
from keypost.protocol.extension import DeviceKey, Session, SignedExtension, read_extension
from keypost.protocol.sessions import Candidate
from keypost.protocol.suites import suite_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from keypost.keystore.port import KeyStore
    from keypost.keystore.values import Conversation


def to_stored_session(session: Session) -> StoredSession:
    """Return a session as it is kept."""
    return StoredSession(
        conversation=session.conversation,
        key_id=session.key_id,
        suite=session.suite.id,
        creator=session.creator.address,
        creator_fingerprint=session.creator.fingerprint,
        create_time=session.create_time,
        session_key=session.key,
    )


def to_session(stored: StoredSession, realm: str) -> Session:
    """Return a kept session."""
    return Session(
        realm=realm,
        conversation=stored.conversation,
        suite=suite_for(stored.suite),
        key_id=stored.key_id,
        creator=DeviceKey(stored.creator, stored.creator_fingerprint),
        create_time=stored.create_time,
        key=stored.session_key,
    )


def to_stored_statement(signed: SignedExtension) -> StoredStatement:
    """Return a signer's statement as it is kept."""
    return StoredStatement(signed.extension.signer.address, signed.statement, signed.signature)


def to_signed_extension(statement: bytes, signature: bytes) -> SignedExtension:
    """Return a kept statement."""
    return read_extension(envelope_pb2.KeyExtension(extension=statement, signature=signature))


def to_own_extension(signed: SignedExtension, sealed: Sequence[envelope_pb2.SealedKey]) -> OwnExtension:
    """Return the own key extension as it is kept."""
    sealed_keys = tuple((key.fingerprint, key.sealed_key) for key in sealed)
    return OwnExtension(signed.statement, signed.signature, sealed_keys)


def to_sealed_keys(own: OwnExtension) -> tuple[envelope_pb2.SealedKey, ...]:
    """Return the sealed keys of the own key extension."""
    return tuple(envelope_pb2.SealedKey(fingerprint=name, sealed_key=sealed) for name, sealed in own.sealed_keys)


def candidates(store: KeyStore, conversation: Conversation, realm: str) -> Iterator[Candidate]:
    """Yield the sessions that might be sent under, the newest first: those whose creator's statement is kept."""
    for stored in store.sessions.newest(conversation):
        statement = store.sessions.statement(conversation, stored.key_id, stored.creator)
        if statement is None:
            continue
        offered = to_signed_extension(statement.extension, statement.signature).extension
        yield Candidate(to_session(stored, realm), offered, stored.messages_sent)
