"""Session keys and the statements about them: the rows behind ``SessionPart``."""

# ruff: noqa: S608  # statements are put together from constants of this module; values are always parameters

from __future__ import annotations

import hmac
from dataclasses import replace
from typing import TYPE_CHECKING

from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.keystore.database import conversation_text, ensure_conversation
from keypost.keystore.errors import KeyStoreConflictError
from keypost.keystore.values import Conversation, OwnExtension, StoredSession, StoredStatement
from keypost.protocol.identifiers import Address

if TYPE_CHECKING:
    from keypost.keystore.database import Database, Row
    from keypost.keystore.sealing import Place

BOUND = "conversation, key_id, suite, creator, creator_fingerprint, create_time"
COLUMNS = f"{BOUND}, session_key, messages_sent"


class SqliteSessions:
    """``SessionPart`` in SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, session: StoredSession) -> None:
        """Keep a session; another key or creator under its key_id is refused."""
        with self._database.transaction():
            held = self.find(session.conversation, session.key_id)
            if held is not None:
                _check_same(held, session)
                return
            conversation = ensure_conversation(self._database, session.conversation)
            self._write(conversation, session)
            self._database.run(
                "UPDATE conversations SET highest_create_time = max(highest_create_time, ?) WHERE conversation = ?",
                session.create_time,
                conversation,
            )

    def _write(self, conversation: str, session: StoredSession) -> None:
        bound = (
            conversation,
            session.key_id,
            session.suite,
            str(session.creator),
            session.creator_fingerprint,
            session.create_time,
        )
        self._database.run(
            f"INSERT INTO sessions ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *bound,
            self._database.seal(("sessions", "session_key", *bound), session.session_key),
            session.messages_sent,
        )

    def find(self, conversation: Conversation, key_id: bytes) -> StoredSession | None:
        """Return one session."""
        text = conversation_text(conversation)
        row = self._database.one(f"SELECT {COLUMNS} FROM sessions WHERE conversation = ? AND key_id = ?", text, key_id)
        return None if row is None else self._read(conversation, row)

    def newest(self, conversation: Conversation, limit: int = 32) -> tuple[StoredSession, ...]:
        """Return the sessions with the highest (create_time, key_id), highest first."""
        rows = self._database.all(
            f"SELECT {COLUMNS} FROM sessions WHERE conversation = ? ORDER BY create_time DESC, key_id DESC LIMIT ?",
            conversation_text(conversation),
            limit,
        )
        return tuple(self._read(conversation, row) for row in rows)

    def _read(self, conversation: Conversation, row: Row) -> StoredSession:
        *bound, session_key, messages_sent = row
        opened = self._database.open(("sessions", "session_key", *bound), session_key)
        _, key_id, suite, creator, creator_fingerprint, create_time = bound
        return StoredSession(
            conversation=conversation,
            key_id=key_id,
            suite=suite,
            creator=Address.parse(creator),
            creator_fingerprint=creator_fingerprint,
            create_time=create_time,
            session_key=opened,
            messages_sent=messages_sent,
        )

    def highest_create_time(self, conversation: Conversation) -> int:
        """Return the highest session_create_time ever kept in the conversation."""
        return self._database.number(
            "SELECT highest_create_time FROM conversations WHERE conversation = ?", conversation_text(conversation)
        )

    def count_messages(self, conversation: Conversation, key_id: bytes, count: int = 1) -> int:
        """Count messages that this device sends under a session."""
        with self._database.transaction():
            row = self._row_id(conversation, key_id)
            self._database.run("UPDATE sessions SET messages_sent = messages_sent + ? WHERE id = ?", count, row)
            return self._database.number("SELECT messages_sent FROM sessions WHERE id = ?", row)

    def add_statement(self, conversation: Conversation, key_id: bytes, statement: StoredStatement) -> None:
        """Keep the statement of a signer; a second one is refused."""
        signer = str(statement.signer)
        with self._database.transaction():
            row = self._row_id(conversation, key_id)
            held = self.statement(conversation, key_id, statement.signer)
            if held is not None:
                _check_same_statement(held, statement)
                return
            extension = pb.KeyExtension(extension=statement.extension, signature=statement.signature)
            place = _statement_place(conversation, key_id, signer)
            sealed = self._database.seal(place, extension.SerializeToString())
            self._database.run("INSERT INTO statements VALUES (?, ?, ?)", row, signer, sealed)

    def statement(self, conversation: Conversation, key_id: bytes, signer: Address) -> StoredStatement | None:
        """Return what that signer stated for a session."""
        row = self._database.one(
            "SELECT signer, statement FROM statements JOIN sessions ON sessions.id = session"
            " WHERE conversation = ? AND key_id = ? AND signer = ?",
            conversation_text(conversation),
            key_id,
            str(signer),
        )
        return None if row is None else self._read_statement(conversation, key_id, row)

    def _read_statement(self, conversation: Conversation, key_id: bytes, row: Row) -> StoredStatement:
        signer, sealed = row
        opened = self._database.open(_statement_place(conversation, key_id, signer), sealed)
        extension = pb.KeyExtension.FromString(opened)
        return StoredStatement(Address.parse(signer), extension.extension, extension.signature)

    def set_own_extension(self, conversation: Conversation, key_id: bytes, own: OwnExtension) -> None:
        """Keep the own key extension of a session; another one is refused."""
        with self._database.transaction():
            row = self._row_id(conversation, key_id)
            held = self.own_extension(conversation, key_id)
            if held is not None:
                if held != own:
                    raise KeyStoreConflictError("this device has another extension for the session")
                return
            sealed = self._database.seal(_own_place(conversation, key_id), _own_bytes(own))
            self._database.run("UPDATE sessions SET own_extension = ? WHERE id = ?", sealed, row)

    def own_extension(self, conversation: Conversation, key_id: bytes) -> OwnExtension | None:
        """Return the own key extension of a session."""
        row = self._database.one(
            "SELECT own_extension FROM sessions WHERE conversation = ? AND key_id = ?",
            conversation_text(conversation),
            key_id,
        )
        if row is None or row[0] is None:
            return None
        opened = self._database.open(_own_place(conversation, key_id), row[0])
        extension = pb.KeyExtension.FromString(opened)
        sealed_keys = tuple((sealed.fingerprint, sealed.sealed_key) for sealed in extension.sealed_keys)
        return OwnExtension(extension.extension, extension.signature, sealed_keys)

    def _row_id(self, conversation: Conversation, key_id: bytes) -> int:
        text = conversation_text(conversation)
        row = self._database.number("SELECT id FROM sessions WHERE conversation = ? AND key_id = ?", text, key_id)
        if not row:
            raise KeyStoreConflictError("there is no such session in this conversation")
        return row


def _check_same(held: StoredSession, added: StoredSession) -> None:
    same_key = hmac.compare_digest(held.session_key, added.session_key)
    if not same_key or _origin(held) != _origin(added):
        raise KeyStoreConflictError("this key_id names another session key in this conversation")


def _check_same_statement(held: StoredStatement, added: StoredStatement) -> None:
    if held.extension != added.extension:
        raise KeyStoreConflictError("this device made another statement for the session", signer=str(added.signer))


def _origin(session: StoredSession) -> StoredSession:
    return replace(session, session_key=b"", messages_sent=0)


def _statement_place(conversation: Conversation, key_id: bytes, signer: str) -> Place:
    return ("statements", "statement", conversation_text(conversation), key_id, signer)


def _own_place(conversation: Conversation, key_id: bytes) -> Place:
    return ("sessions", "own_extension", conversation_text(conversation), key_id)


def _own_bytes(own: OwnExtension) -> bytes:
    extension = pb.KeyExtension(extension=own.extension, signature=own.signature)
    for fingerprint, sealed_key in own.sealed_keys:
        extension.sealed_keys.add(fingerprint=fingerprint, sealed_key=sealed_key)
    return extension.SerializeToString()
