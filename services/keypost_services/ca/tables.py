"""The CA's tables. What is here is created by ``migrations``; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

users = Table(
    "users",
    metadata,
    Column("username", String(128), primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("create_time", BigInteger, nullable=False),
)

# A key is never deleted: public keys are unique over all ever seen.
device_keys = Table(
    "device_keys",
    metadata,
    Column("fingerprint", LargeBinary(32), primary_key=True),
    Column("username", String(128), ForeignKey("users.username"), nullable=False),
    Column("device_id", String(16), nullable=False),
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
)

one_time_codes = Table(
    "one_time_codes",
    metadata,
    Column("code_hash", LargeBinary(32), primary_key=True),
    Column("username", String(128), nullable=False),
    Column("expire_time", BigInteger, nullable=False),
    Column("used_fingerprint", LargeBinary(32), nullable=False),
)

key_events = Table(
    "key_events",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("username", String(128), nullable=False),
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
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

EVENT_COUNTER = "key_events"
