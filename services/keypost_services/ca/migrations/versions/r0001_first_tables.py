"""First tables: users, their keys, one-time codes, key events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    _create_users()
    _create_device_keys()
    op.create_table(
        "one_time_codes",
        sa.Column("code_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("username", sa.String(128), nullable=False),
        sa.Column("expire_time", sa.BigInteger, nullable=False),
        sa.Column("used_fingerprint", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("code_hash", name="pk_one_time_codes"),
    )
    _create_key_events()
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_secrets"),
    )


def _create_users() -> None:
    op.create_table(
        "users",
        sa.Column("username", sa.String(128), nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("username", name="pk_users"),
    )


def _create_device_keys() -> None:
    op.create_table(
        "device_keys",
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("username", sa.String(128), nullable=False),
        sa.Column("device_id", sa.String(16), nullable=False),
        sa.Column("suite", sa.Integer, nullable=False),
        sa.Column("kind", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("parent_fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("expire_time", sa.BigInteger, nullable=False),
        sa.Column("key_request", sa.LargeBinary, nullable=False),
        sa.Column("possession", sa.LargeBinary, nullable=False),
        sa.Column("endorsement", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("enter_time", sa.BigInteger, nullable=False),
        sa.Column("state_time", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_device_keys"),
        sa.ForeignKeyConstraint(["username"], ["users.username"], name="fk_device_keys_username"),
        sa.UniqueConstraint("username", "revision", name="uq_device_keys_username_revision"),
    )


def _create_key_events() -> None:
    op.create_table(
        "key_events",
        sa.Column("sequence", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("username", sa.String(128), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Integer, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("ended_fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_key_events"),
    )
    counters = op.create_table(
        "counters",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_counters"),
    )
    op.bulk_insert(counters, [{"name": "key_events", "value": 0}])
