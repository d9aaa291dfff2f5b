"""``keypost-ca audit``: the audit log in the database, on the CA's own machine."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from keypost_services.ca.audit import BEGINNING, AuditBrokenError, read_head
from keypost_services.ca.audit_lines import ALL, Wanted, facts_of, line_of, verify
from keypost_services.ca.command_options import Database  # noqa: TC001  # typer reads the annotation
from keypost_services.ca.database import open_store_as_it_is
from keypost_services.ca.migrate import SchemaDiffersError
from keypost_services.ca.printing import CommandError, Json, fail, print_facts, read_time
from keypost_services.ca.redo import in_order, lines_of_file, read_entries
from keypost_services.ca.settings import check_database
from keypost_services.ca.store import AuditFilter, StoreAwayError
from keypost_services.ca.store_failures import sentence_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keypost_services.ca.audit import Head
    from keypost_services.ca.audit_lines import Entries
    from keypost_services.ca.store import Store

    Read = Callable[[Entries], Awaitable[None]]

PAGE = 256
BROKEN = 1
"""The exit code for a log that does not verify."""
About = Annotated[str, typer.Option("--user", help="Only entries about this user.")]
Since = Annotated[str, typer.Option(help="Only entries since then, such as 2026-01-31 or 2026-01-31T09:30 (UTC).")]
Until = Annotated[str, typer.Option(help="Only entries before then.")]
After = Annotated[int, typer.Option(min=0, help="Only entries after the one of this number.")]
Noted = Annotated[str, typer.Option("--head", help="A head that was noted elsewhere: the log must have it.")]

audit = typer.Typer(name="audit", help="Read the audit log in the database.", no_args_is_help=True)


@audit.command("list")
def list_entries(
    *,
    database: Database,
    user: About = "",
    since: Since = "",
    until: Until = "",
    after: After = 0,
    as_json: Json = False,
) -> None:
    """List the entries of the audit log.

    One a line; with --json one object a line. The CA may be serving meanwhile.
    """
    wanted = read_wanted(user, since, until, after)
    _run(database, lambda entries: print_entries(entries, as_json=as_json), wanted)


@audit.command("verify")
def verify_entries(
    *,
    database: Annotated[
        str | None, typer.Option(envvar="KEYPOST_CA_DATABASE", help="URL of the CA's database.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A log that is kept elsewhere, instead: what `audit list --json` printed.")
    ] = None,
    head: Noted = "",
    as_json: Json = False,
) -> None:
    """Verify that no entry of the audit log was altered, removed or put in.

    Prints the head: note it elsewhere, and give it the next time. Without one, whoever can write to the database, or to
    the file, can cut the end off, or write the log anew.
    """
    noted = read_noted(head)
    if file is not None:
        _verify_file(file, noted, as_json=as_json)
        return
    if database is None:
        fail(CommandError("name the --database or a --file"))
    _run(database, lambda entries: print_verified(entries, noted, as_json=as_json))


def read_wanted(user: str, since: str, until: str, after: int) -> Wanted:
    """Return which entries the options ask for; ends the command if they cannot be read."""
    try:
        return Wanted(user, read_time(since) if since else 0, read_time(until) if until else 0, after)
    except ValueError as error:
        fail(error)


def read_noted(head: str) -> Head:
    """Return the head that was noted; ends the command if it is none."""
    try:
        return read_head(head) if head else BEGINNING
    except ValueError as error:
        fail(error)


async def print_entries(entries: Entries, *, as_json: bool) -> None:
    """Print entries, one a line."""
    async for entry in entries:
        typer.echo(json.dumps(facts_of(entry)) if as_json else line_of(entry))


async def print_verified(entries: Entries, noted: Head, *, as_json: bool) -> None:
    """Verify all entries and print the head; ends the command if they are not what was written."""
    try:
        found = await verify(entries, noted)
    except AuditBrokenError as error:
        fail(error, BROKEN)
    print_facts({"entries": found.sequence, "head": str(found)}, as_json=as_json)


def _verify_file(file: Path, noted: Head, *, as_json: bool) -> None:
    async def entries() -> Entries:
        for entry in in_order(read_entries(lines_of_file(file))):
            yield entry

    try:
        asyncio.run(print_verified(entries(), noted, as_json=as_json))
    except (ValueError, OSError) as error:
        fail(error)


def _run(database: str, read: Read, wanted: Wanted = ALL) -> None:
    try:
        asyncio.run(_read_database(check_database(database), read, wanted))
    except (ValueError, SchemaDiffersError) as error:
        fail(error)
    except SQLAlchemyError as error:
        fail(CommandError(f"the database cannot be used: {sentence_of(error)}"))
    except StoreAwayError as error:
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
