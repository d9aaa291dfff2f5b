"""``keypost-ca audit``: the audit log in the database, on the CA's own machine."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from keypost_services.ca.audit import BEGINNING, AuditBrokenError, read_head
from keypost_services.ca.audit_lines import BROKEN, Wanted, facts_of, line_of, verify
from keypost_services.ca.command_options import Database  # noqa: TC001  # typer reads the annotation
from keypost_services.ca.printing import CommandError, Json, fail, print_facts, read_time

if TYPE_CHECKING:
    from keypost_services.ca.audit import Head
    from keypost_services.ca.audit_lines import Entries

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
    from keypost_services.ca.audit_reading import read_database  # noqa: PLC0415  # `admin audit` needs no database

    wanted = read_wanted(user, since, until, after)
    read_database(database, lambda entries: print_entries(entries, as_json=as_json), wanted)


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
    from keypost_services.ca.audit_reading import read_database, read_file  # noqa: PLC0415  # as above

    noted = read_noted(head)
    if file is not None:
        read_file(file, lambda entries: print_verified(entries, noted, as_json=as_json))
        return
    if database is None:
        fail(CommandError("name the --database or a --file"))
    read_database(database, lambda entries: print_verified(entries, noted, as_json=as_json))


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
