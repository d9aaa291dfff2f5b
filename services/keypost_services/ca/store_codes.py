"""One-time codes in the SQL database: which there are, and their end before their time."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, select, tuple_, update

from keypost_services.ca.audit import Action
from keypost_services.ca.store import ENDED, DrawnCode, OneTimeCode
from keypost_services.ca.tables import audit_entries, one_time_codes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import ColumnElement, RowMapping, Select
    from sqlalchemy.ext.asyncio import AsyncConnection

    from keypost_services.ca.store import CodeFilter

_HASH_BYTES = 32
_ORDER = ("username", "expire_time", "code_hash")
_CODE = tuple(field.name for field in fields(OneTimeCode))


def codes_after(after: OneTimeCode | None, limit: int, wanted: CodeFilter) -> Select[Any]:
    """Return the query for at most ``limit`` codes after one, in order, with what the audit log tells of each."""
    order = [one_time_codes.c[name] for name in _ORDER]
    query = select(one_time_codes).where(*_conditions(wanted)).order_by(*order).limit(limit)
    if after is not None:
        query = query.where(tuple_(*order) > tuple_(*(getattr(after, name) for name in _ORDER)))
    # The log is searched for the codes of the page alone, by the index that it has: by username.
    page, log = query.subquery(), audit_entries.c
    made = and_(log.username == page.c.username, log.action == str(Action.CODE_MADE), log.evidence == page.c.code_hash)
    told = [func.coalesce(log.create_time, 0).label("create_time")]
    told += [func.coalesce(log[name], "").label(name) for name in ("actor_kind", "actor")]
    joined = page.outerjoin(audit_entries, made)
    return select(page, *told).select_from(joined).order_by(*(page.c[name] for name in _ORDER))


def drawn_code_of(row: RowMapping) -> DrawnCode:
    """Return the code in a row."""
    code = OneTimeCode(**{name: row[name] for name in _CODE})
    return DrawnCode(code, row["create_time"], row["actor_kind"], row["actor"])


async def end_codes(connection: AsyncConnection, wanted: CodeFilter) -> Sequence[bytes]:
    """End codes; return their hashes in ascending order."""
    step = update(one_time_codes).where(*_conditions(wanted)).values(expire_time=ENDED)
    return sorted((await connection.execute(step.returning(one_time_codes.c.code_hash))).scalars())


def not_ended() -> ColumnElement[bool]:
    """Return whether a code is neither used nor ended; whether it has expired, a clock says."""
    return and_(one_time_codes.c.used_fingerprint == b"", one_time_codes.c.expire_time != ENDED)


def _conditions(wanted: CodeFilter) -> Iterator[ColumnElement[bool]]:
    if wanted.username is not None:
        yield one_time_codes.c.username == wanted.username
    if wanted.code_id:
        # From the first to the last hash that begins so: the index has them together.
        first, last = (wanted.code_id.ljust(_HASH_BYTES, end) for end in (b"\x00", b"\xff"))
        yield one_time_codes.c.code_hash.between(first, last)
    if wanted.open_at is not None:
        yield not_ended()
        yield one_time_codes.c.expire_time > wanted.open_at
