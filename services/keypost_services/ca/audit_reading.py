"""Reads the audit log for ``keypost-ca audit``: in the database, or as it is kept elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from keypost_services.ca.audit import AuditBrokenError
from keypost_services.ca.audit_lines import ALL, BROKEN, Entries, Wanted
from keypost_services.ca.command_failures import failures_told
from keypost_services.ca.database import open_store_as_it_is
from keypost_services.ca.database_url import check_database
from keypost_services.ca.printing import CommandError, fail
from keypost_services.ca.redo import in_order, lines_of_file, read_entries
from keypost_services.ca.store import AuditFilter, StoreAwayError

if TYPE_CHECKING:
    from pathlib import Path

    from keypost_services.ca.store import Store

Read = Callable[[Entries], Awaitable[None]]
PAGE = 256


def read_file(file: Path, read: Read) -> None:
    """Read the log from a file, one entry a line; ends the command if it cannot be read."""

    async def entries() -> Entries:
        for entry in in_order(read_entries(lines_of_file(file))):
            yield entry

    async def run() -> None:
        await read(entries())

    try:
        asyncio.run(run())
    except (ValueError, OSError) as error:
        fail(error)


def read_database(database: str, read: Read, wanted: Wanted = ALL) -> None:
    """Read entries of the log in the database; ends the command if they cannot be read."""
    try:
        with failures_told(StoreAwayError):
            asyncio.run(_read_database(check_database(database), read, wanted))
    except CommandError as error:
        fail(error)
    except TypeError:
        fail(AuditBrokenError("an entry has a value of a kind that is never written: it was altered"), BROKEN)


async def _read_database(database: str, read: Read, wanted: Wanted) -> None:
    async with open_store_as_it_is(database) as store:
        await read(_entries_of(store, wanted))


async def _entries_of(store: Store, wanted: Wanted) -> Entries:
    narrowed = AuditFilter(wanted.username or None, wanted.from_time, wanted.until_time or None)
    last = wanted.after
    while page := await store.list_audit_entries(last, PAGE, narrowed):
        for entry in page:
            yield entry
        last = page[-1].sequence
