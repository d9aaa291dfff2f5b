"""Announced identity resets, who first signed in as a user, and the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.add_column("users", sa.Column("reset_time", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.create_table(
        "identities",
        sa.Column("username", sa.String(128), nullable=False),
        sa.Column("issuer", sa.String(512), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("username", name="pk_identities"),
        sa.UniqueConstraint("issuer", "subject", name="uq_identities_issuer_subject"),
    )
    _create_audit_entries()
    _guard_audit_entries()


def _create_audit_entries() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("sequence", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("actor_kind", sa.String(16), nullable=False),
        sa.Column("actor", sa.String(300), nullable=False),
        sa.Column("username", sa.String(128), nullable=False),
        sa.Column("device_id", sa.String(16), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Integer, nullable=False),
        sa.Column("peer", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("evidence", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_audit_entries"),
    )
    op.create_index("ix_audit_entries_username_sequence", "audit_entries", ["username", "sequence"])


def _guard_audit_entries() -> None:
    """Have the database itself refuse whatever is not the next entry.

    On PostgreSQL: a trigger BEFORE UPDATE OR DELETE OR TRUNCATE whose function raises, and GRANT INSERT, SELECT alone
    to the account of the CA, which must not own the table.
    """
    if op.get_bind().dialect.name != "sqlite":
        return
    for event in ("UPDATE", "DELETE"):
        _create_trigger(event, "1")
    # REPLACE deletes without a trigger: only the number after the newest may be inserted.
    _create_trigger("INSERT", "NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM audit_entries)")


def _create_trigger(event: str, when: str) -> None:
    op.execute(
        f"CREATE TRIGGER audit_entries_{event.lower()} BEFORE {event} ON audit_entries WHEN {when} "
        "BEGIN SELECT RAISE(ABORT, 'audit_entries is append-only'); END"
    )
