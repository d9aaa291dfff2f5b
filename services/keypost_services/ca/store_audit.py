"""The audit log in the SQL database: entries are appended under the event counter's lock, and never touched again."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, insert, or_, select

from keypost_services.ca.acts import trust_installed
from keypost_services.ca.audit import BEGINNING, Act, Action, AuditBrokenError, AuditEntry, Head, chain
from keypost_services.ca.tables import audit_entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import RowMapping, Select
    from sqlalchemy.ext.asyncio import AsyncConnection

    from keypost_services.ca.store import AuditFilter, InstalledTrust

_IN_PLACE = ("sequence", "hash")
_TRUST = (audit_entries.c.username == "", audit_entries.c.action == str(Action.TRUST_INSTALLED))
"""Of which entries are of trust statements; first what there is an index for."""
NEWEST = select(audit_entries.c.sequence, audit_entries.c.hash).order_by(audit_entries.c.sequence.desc()).limit(1)


async def append_acts(
    connection: AsyncConnection, acts: Iterable[Act], expected: Sequence[AuditEntry] = ()
) -> Sequence[AuditEntry]:
    """Append entries and return them; who calls holds the lock of the event counter's row: no other head comes between.

    Raises:
        AuditBrokenError: They are to be ``expected``, and are not.
    """
    head = head_of((await connection.execute(NEWEST)).mappings().first())
    entries = chain(head, acts)
    if expected and [entry.hash for entry in entries] != [entry.hash for entry in expected]:
        raise AuditBrokenError(f"entry {expected[0].sequence} came out otherwise than it was written")
    await connection.execute(insert(audit_entries), [_row_of(entry) for entry in entries])
    return entries


async def append_trust(
    connection: AsyncConnection, installed: InstalledTrust, expected: Sequence[AuditEntry] = ()
) -> Sequence[AuditEntry]:
    """Append the entries of a trust statement, unless it has some; who calls holds the lock, as in ``append_acts``.

    It is compared with the one before it by its sequence: replicas need not take up each statement, nor in their order.
    What a later statement has told that was entered before it is told again: after a restore entries are made anew by
    this rule, and have to come out as they were written.

    Raises:
        AuditBrokenError: They are to be ``expected``, and are not.
    """
    if not expected and (await connection.execute(entered(installed))).first() is not None:
        return ()
    before = (await connection.execute(_evidence_before(installed.sequence))).scalar()
    return await append_acts(connection, trust_installed(installed, before or b""), expected)


def entered(installed: InstalledTrust) -> Select[Any]:
    """Return the query for the entry of a trust statement."""
    columns = audit_entries.c
    return select(columns.sequence).where(*_TRUST, columns.fingerprint == installed.hash).limit(1)


def contradicting(trust_sequence: int, statement_hash: bytes) -> Select[Any]:
    """Return the query for the newest trust statement that is above another, or another one of its sequence."""
    columns = audit_entries.c
    fork = and_(columns.revision == trust_sequence, columns.fingerprint != statement_hash)
    query = select(audit_entries).where(*_TRUST, or_(columns.revision > trust_sequence, fork))
    return query.order_by(columns.revision.desc(), columns.sequence.desc()).limit(1)


def _evidence_before(trust_sequence: int) -> Select[Any]:
    columns = audit_entries.c
    query = select(columns.evidence).where(*_TRUST, columns.revision < trust_sequence)
    return query.order_by(columns.revision.desc(), columns.sequence.desc()).limit(1)


def entries_after(sequence: int, limit: int, wanted: AuditFilter) -> Select[Any]:
    """Return the query for at most ``limit`` entries after a number, in order."""
    columns = audit_entries.c
    query = select(audit_entries).where(columns.sequence > sequence, columns.create_time >= wanted.from_time)
    if wanted.username is not None:
        query = query.where(columns.username == wanted.username)
    if wanted.until_time is not None:
        query = query.where(columns.create_time < wanted.until_time)
    return query.order_by(columns.sequence).limit(limit)


def entry_of(row: RowMapping) -> AuditEntry:
    """Return the entry in a row, as it stands there: whether it was altered, its hash says."""
    values = {name: value for name, value in row.items() if name not in _IN_PLACE}
    return AuditEntry(row["sequence"], Act(**values), row["hash"])


def head_of(row: RowMapping | None) -> Head:
    """Return the head in a row."""
    return BEGINNING if row is None else Head(row["sequence"], row["hash"])


def _row_of(entry: AuditEntry) -> dict[str, Any]:
    return asdict(entry.act) | {"sequence": entry.sequence, "hash": entry.hash}
