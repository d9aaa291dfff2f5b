"""What the commands of ``keypost-ca`` on the database do, apart from reading their arguments and printing."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from keypost.errors import KeypostError
from keypost.protocol.identifiers import check_username
from keypost_services.ca.acts import code_made
from keypost_services.ca.after_restore import AfterRestore
from keypost_services.ca.after_restore import after_restore as make_fit
from keypost_services.ca.audit import NOWHERE, OPERATOR, AuditBrokenError
from keypost_services.ca.codes import draw_code, realm_hash
from keypost_services.ca.command_failures import failures_told
from keypost_services.ca.database import open_store, open_store_as_it_is
from keypost_services.ca.database_url import check_database
from keypost_services.ca.durations import parse_duration
from keypost_services.ca.engine import database_file
from keypost_services.ca.migrate import expected_revision
from keypost_services.ca.printing import CommandError
from keypost_services.ca.redo import IssuerMissingError, lines_of_file, read_entries
from keypost_services.ca.trust.realm_files import RealmFilesError, RealmFolder, load_realm
from keypost_services.runtime.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path

    from keypost_services.ca.audit import Act, Head
    from keypost_services.ca.codes import MadeCode
    from keypost_services.ca.store import OneTimeCode
    from keypost_services.ca.trust.realm import Realm


def make_code(folder: Path, database: str, username: str, expires: str, now: int) -> MadeCode:
    """Make a one-time code and keep its hash. The CA may be serving meanwhile.

    Raises:
        CommandError: A value is wrong, or the database is not ready.
    """
    realm = _realm_of(folder, now)
    with failures_told(KeypostError):
        binding = realm_hash(realm.trust.realm, realm.first_root_keys)
        made, code = draw_code(os.urandom, check_username(username), now + parse_duration(expires), binding)
        act = code_made(code, OPERATOR, now, NOWHERE)
        asyncio.run(_keep_code(check_database(database), code, act))
    return made


def migrate_database(database: str, grant_to: str | None) -> str:
    """Bring the database to the tables of this version; return the name of the last step.

    Args:
        database: Its URL.
        grant_to: The role of PostgreSQL that is to serve from it.

    Raises:
        CommandError: The database cannot be used.
    """
    try:
        if grant_to is not None and database_file(database) is not None:
            raise CommandError("--grant: SQLite has no roles")
        asyncio.run(_migrate(check_database(database), grant_to))
    except (ValueError, StartError) as error:
        raise CommandError(str(error)) from error
    return expected_revision()


def after_restore(database: str, audit: Path | None, noted: Head, issuer: str, now: int) -> AfterRestore:
    """Make a restored database fit to serve.

    Args:
        database: Its URL.
        audit: A file of entries of the audit log, one a line.
        noted: A head that they must have.
        issuer: The URL of the issuer at which users signed in; empty if there is none.
        now: Unix milliseconds.

    Raises:
        CommandError: The database or the file cannot be used, or they do not fit together.
    """
    with failures_told(OSError, KeypostError, StartError, AuditBrokenError, IssuerMissingError):
        entries = [] if audit is None else list(read_entries(lines_of_file(audit)))
        return asyncio.run(make_fit(check_database(database), entries, now, noted, issuer))


def _realm_of(folder: Path, now: int) -> Realm:
    try:
        return load_realm(RealmFolder(folder), now)
    except RealmFilesError as error:
        raise CommandError(str(error)) from error


async def _keep_code(database: str, code: OneTimeCode, act: Act) -> None:
    async with open_store_as_it_is(database) as store:
        await store.add_code(code, act)


async def _migrate(database: str, grant_to: str | None) -> None:
    async with open_store(database, grant_to=grant_to):
        pass
