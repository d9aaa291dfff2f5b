"""The CA's tables. What is here is created by ``migrations``; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _text(length: int) -> String:
    """Return a text that is compared by its bytes: the order of a language changes with the operating system."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


users = Table(
    "users",
    metadata,
    Column("username", _text(128), primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    # 0: no identity reset is announced.
    Column("reset_time", BigInteger, nullable=False, server_default=text("0")),
)

# A key is never deleted: public keys are unique over all ever seen.
device_keys = Table(
    "device_keys",
    metadata,
    Column("fingerprint", LargeBinary(32), primary_key=True),
    Column("username", _text(128), ForeignKey("users.username"), nullable=False),
    Column("device_id", _text(16), nullable=False),
    Column("suite", Integer, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("parent_fingerprint", LargeBinary(32), nullable=False),
    Column("expire_time", BigInteger, nullable=False),
    Column("key_request", LargeBinary, nullable=False),
    Column("possession", LargeBinary, nullable=False),
    Column("endorsement", LargeBinary, nullable=False),
    Column("state", Integer, nullable=False),
    Column("enter_time", BigInteger, nullable=False),
    Column("state_time", BigInteger, nullable=False),
    Column("reason", Integer, nullable=False),
    # Only one key enters at a revision.
    UniqueConstraint("username", "revision"),
    # Of the good ones (KEY_STATE_GOOD) alone: what ended before its time is not counted.
    Index(None, "expire_time", "state", postgresql_where=text("state = 1"), sqlite_where=text("state = 1")),
)

one_time_codes = Table(
    "one_time_codes",
    metadata,
    Column("code_hash", LargeBinary(32), primary_key=True),
    Column("username", _text(128), nullable=False),
    Column("expire_time", BigInteger, nullable=False),
    Column("used_fingerprint", LargeBinary(32), nullable=False),
)

# Who of the issuer's subjects first signed in as a user: nobody else ever does.
identities = Table(
    "identities",
    metadata,
    Column("username", _text(128), primary_key=True),
    Column("issuer", _text(512), nullable=False),
    Column("subject", _text(255), nullable=False),
    Column("create_time", BigInteger, nullable=False),
    UniqueConstraint("issuer", "subject"),
)

# Append-only: who did what to which key, from where. Each entry hashes the one before it. The migration adds triggers
# that refuse to alter, remove or insert an entry; a database with accounts should also grant INSERT and SELECT alone.
audit_entries = Table(
    "audit_entries",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("create_time", BigInteger, nullable=False),
    Column("action", _text(32), nullable=False),
    Column("actor_kind", _text(16), nullable=False),
    Column("actor", _text(300), nullable=False),
    Column("username", _text(128), nullable=False),
    Column("device_id", _text(16), nullable=False),
    Column("fingerprint", LargeBinary(32), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("reason", Integer, nullable=False),
    Column("peer", _text(64), nullable=False),
    Column("request_id", _text(64), nullable=False),
    Column("evidence", LargeBinary, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
    Index(None, "username", "sequence"),
)

key_events = Table(
    "key_events",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("username", _text(128), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("fingerprint", LargeBinary(32), nullable=False),
    Column("ended_fingerprint", LargeBinary(32), nullable=False),
    Column("create_time", BigInteger, nullable=False),
)

# A database's own sequences are not in commit order; this row's lock is.
counters = Table(
    "counters",
    metadata,
    Column("name", _text(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", _text(32), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

EVENT_COUNTER = "key_events"
