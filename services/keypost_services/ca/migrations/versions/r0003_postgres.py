"""PostgreSQL: names compared by their bytes, an audit log that is only ever added to, and news of key events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TEXTS = {
    "users": {"username": 128},
    "device_keys": {"username": 128, "device_id": 16},
    "one_time_codes": {"username": 128},
    "identities": {"username": 128, "issuer": 512, "subject": 255},
    "audit_entries": {
        "action": 32,
        "actor_kind": 16,
        "actor": 300,
        "username": 128,
        "device_id": 16,
        "peer": 64,
        "request_id": 64,
    },
    "key_events": {"username": 128},
    "counters": {"name": 32},
    "secrets": {"name": 32},
}


def upgrade() -> None:
    """Take the step."""
    if op.get_bind().dialect.name != "postgresql":
        return
    _compare_by_bytes()
    _guard_audit_entries()
    _tell_of_key_events()


def _compare_by_bytes() -> None:
    # The order of a language changes with the operating system, and an index would then no longer be in order.
    for table, columns in _TEXTS.items():
        for column, length in columns.items():
            op.alter_column(table, column, type_=sa.String(length, collation="C"), existing_nullable=False)


def _guard_audit_entries() -> None:
    op.execute(
        "CREATE FUNCTION keypost_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_entries_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries "
        "FOR EACH STATEMENT EXECUTE FUNCTION keypost_refuse_change()"
    )
    # The table by its full name: whoever connects could put another one of that name before it.
    op.execute(
        "CREATE FUNCTION keypost_check_next_entry() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "DECLARE next bigint; BEGIN "
        "EXECUTE format('SELECT coalesce(max(sequence), 0) + 1 FROM %I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME) INTO next; "
        "IF NEW.sequence IS DISTINCT FROM next THEN "
        "RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation'; "
        "END IF; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_entries_insert BEFORE INSERT ON audit_entries "
        "FOR EACH ROW EXECUTE FUNCTION keypost_check_next_entry()"
    )
    # Also for a session that says that it only replicates.
    for trigger in ("change", "insert"):
        op.execute(f"ALTER TABLE audit_entries ENABLE ALWAYS TRIGGER audit_entries_{trigger}")


def _tell_of_key_events() -> None:
    op.execute(
        "CREATE FUNCTION keypost_tell_of_key_events() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN PERFORM pg_notify('keypost_key_events', ''); RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER key_events_insert AFTER INSERT ON key_events "
        "FOR EACH STATEMENT EXECUTE FUNCTION keypost_tell_of_key_events()"
    )
