"""What the commands of ``keypost-ca`` do, apart from reading their arguments and printing."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from keypost.clock import DAY
from keypost.errors import KeypostError
from keypost.protocol.encoding import fingerprint
from keypost.protocol.identifiers import check_realm, check_username
from keypost.protocol.realm_trust import Constants
from keypost.protocol.suites import suite_named
from keypost_services.ca.acts import code_made
from keypost_services.ca.after_restore import AfterRestore
from keypost_services.ca.after_restore import after_restore as make_fit
from keypost_services.ca.audit import NOWHERE, OPERATOR, AuditBrokenError
from keypost_services.ca.bundle import OidcOptions, make_bundle
from keypost_services.ca.codes import MadeCode, new_code, realm_hash
from keypost_services.ca.database import open_store, open_store_as_it_is
from keypost_services.ca.durations import parse_duration
from keypost_services.ca.engine import database_file
from keypost_services.ca.migrate import SchemaDiffersError, expected_revision
from keypost_services.ca.printing import CommandError
from keypost_services.ca.redo import IssuerMissingError, lines_of_file, read_entries
from keypost_services.ca.settings import check_database
from keypost_services.ca.store_failures import sentence_of
from keypost_services.ca.trust.realm_files import RealmFilesError, RealmFolder, create_realm, load_realm, load_trust
from keypost_services.runtime.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from keypost_services.ca.audit import Act, Head
    from keypost_services.ca.store import OneTimeCode
    from keypost_services.ca.trust.realm import Realm

_LONGEST_KEY_LIFETIME = 398 * DAY


def read_constants(durations: Mapping[str, str], rotation_messages: int, suites: Sequence[str]) -> Constants:
    """Return realm constants that fit together.

    Args:
        durations: Text such as ``60d`` by the name of the constant.
        rotation_messages: The constant of that name.
        suites: Names of the allowed suites.

    Raises:
        CommandError: A value is none, or they contradict each other.
    """
    try:
        constants = Constants(
            **{name: parse_duration(text) for name, text in durations.items()},
            rotation_messages=rotation_messages,
            allowed_suites=tuple(sorted({suite_named(name).id for name in suites}, reverse=True)),
        )
    except (ValueError, KeypostError) as error:
        raise CommandError(str(error)) from error
    if constants.longest_key_lifetime > _LONGEST_KEY_LIFETIME:
        raise CommandError("longest-key-lifetime: 398d at most")
    if constants.retention < constants.age_limit:
        raise CommandError(
            "retention: replaced keys must stay for as long as a message may wait "
            "(rotation-period + mailbox-age + record-lifetime + 1 day and 5 minutes)"
        )
    return constants


def init_realm(
    folder: Path, realm: str, constants: Constants, validity: str, now: int, *, passphrase: str | None
) -> dict[str, object]:
    """Make the realm's files; return what there is to know of them.

    Args:
        folder: Where they go.
        realm: The realm.
        constants: Its constants.
        validity: How long statement and record key are valid, as text.
        now: Unix milliseconds.
        passphrase: Seals the root key; None: nothing does.

    Raises:
        CommandError: Something is there already, or a value is wrong.
    """
    try:
        trust = create_realm(
            RealmFolder(folder), check_realm(realm), constants, parse_duration(validity), now, passphrase=passphrase
        )
    except (RealmFilesError, KeypostError, ValueError) as error:
        raise CommandError(str(error)) from error
    files = RealmFolder(folder)
    return {
        "realm": trust.realm,
        "folder": str(folder),
        "root_key_fingerprint": fingerprint(trust.root_keys[0]).hex(),
        "record_key_fingerprint": trust.record_keys[0].fingerprint.hex(),
        "until_time": trust.until_time,
        "root_key": str(files.root_key),
        "record_key": str(files.record_key),
        "realm_trust": str(files.realm_trust),
    }


def read_oidc(issuer: str | None, client_id: str | None, scope: str, tls_roots: Path | None) -> OidcOptions | None:
    """Return where users sign in; None if no issuer is named.

    Raises:
        CommandError: Half of it is missing.
    """
    if issuer is None and client_id is None and tls_roots is None:
        return None
    if not issuer or not client_id:
        raise CommandError("an issuer needs both --oidc-issuer and --oidc-client-id")
    return OidcOptions(issuer, client_id, scope, tls_roots)


def bundle_of(
    folder: Path, endpoints: Mapping[str, str], tls_roots: Path, now: int, oidc: OidcOptions | None = None
) -> str:
    """Return the bundle as protobuf JSON.

    Args:
        folder: The realm's folder.
        endpoints: ``host:port`` by ``ca``, ``directory`` and ``delivery``.
        tls_roots: PEM file.
        now: Unix milliseconds.
        oidc: Where users sign in, if they do it at an issuer.

    Raises:
        CommandError: A file is missing or wrong.
    """
    try:
        return make_bundle(load_trust(RealmFolder(folder), now), endpoints, tls_roots, oidc)
    except RealmFilesError as error:
        raise CommandError(str(error)) from error


def make_code(folder: Path, database: str, username: str, expires: str, now: int) -> MadeCode:
    """Make a one-time code and keep its hash. The CA may be serving meanwhile.

    Raises:
        CommandError: A value is wrong, or the database is not ready.
    """
    realm = _realm_of(folder, now)
    try:
        made = MadeCode(new_code(os.urandom), check_username(username), now + parse_duration(expires))
        code = made.kept(realm_hash(realm.trust.realm, realm.first_root_keys))
        act = code_made(code, OPERATOR, now, NOWHERE)
        asyncio.run(_keep_code(check_database(database), code, act))
    except (ValueError, KeypostError, SchemaDiffersError) as error:
        raise CommandError(str(error)) from error
    except SQLAlchemyError as error:
        raise CommandError(f"the database cannot be used: {sentence_of(error)}") from error
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
    try:
        entries = [] if audit is None else list(read_entries(lines_of_file(audit)))
        return asyncio.run(make_fit(check_database(database), entries, now, noted, issuer))
    except (ValueError, OSError, StartError, AuditBrokenError, IssuerMissingError) as error:
        raise CommandError(str(error)) from error
    except SQLAlchemyError as error:
        raise CommandError(f"the database cannot be used: {sentence_of(error)}") from error


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
