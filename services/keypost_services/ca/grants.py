"""What the role may do that a CA serves as, on PostgreSQL: it changes what changes, and removes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Dialect

GRANTS = {
    "alembic_version": "SELECT",
    "audit_entries": "SELECT, INSERT",
    "counters": "SELECT, UPDATE",
    "device_keys": "SELECT, INSERT, UPDATE",
    "identities": "SELECT, INSERT",
    "key_events": "SELECT, INSERT",
    "one_time_codes": "SELECT, INSERT, UPDATE",
    "secrets": "SELECT, INSERT",
    "users": "SELECT, INSERT, UPDATE",
}
"""By table."""
NOT_OWNED = (
    "SELECT tableowner FROM pg_tables WHERE schemaname = current_schema() "
    "AND tablename = ANY(:tables) AND NOT pg_has_role(tableowner, 'USAGE')"
)
"""Selects the owners of tables that are not the role's own that asks."""


def grants_to(role: str, dialect: Dialect) -> Iterator[str]:
    """Yield the statements that grant a role what it needs, and take from it what it may have had beyond that."""
    name = dialect.identifier_preparer.quote_identifier(role)
    for table, privileges in GRANTS.items():
        yield f"REVOKE ALL ON {table} FROM {name}"
        yield f"GRANT {privileges} ON {table} TO {name}"
