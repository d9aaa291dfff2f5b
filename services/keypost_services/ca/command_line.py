"""The Certificate Authority's commands, as they are typed."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import TyperException

from keypost.clock import system_clock
from keypost_services.ca import commands
from keypost_services.ca.administration.command_line import admin
from keypost_services.ca.audit_command_line import Noted, audit, read_noted
from keypost_services.ca.command_options import Database, Folder, NoPassphrase, PassphraseFile, passphrase_of
from keypost_services.ca.printing import (
    JSON,
    USAGE,
    CommandError,
    Json,
    check_agreed,
    fail,
    failure_as_json,
    print_facts,
)
from keypost_services.ca.sign_in.urls import check_issuer
from keypost_services.ca.trust.command_line import record_key_app, root_app, trust_app
from keypost_services.runtime.command_line import service_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost_services.ca.settings import CaSettings
    from keypost_services.runtime.serving import Compose

DESCRIPTION = "The Certificate Authority of Keypost: records which public key belongs to whom."


def _settings() -> type[CaSettings]:
    from keypost_services.ca.settings import CaSettings  # noqa: PLC0415  # `serve` alone needs them

    return CaSettings


def _compose() -> Compose[CaSettings]:
    from keypost_services.ca.compose import compose  # noqa: PLC0415  # `serve` alone needs it

    return compose


app = service_app("ca", DESCRIPTION, _settings, _compose)
app.add_typer(audit)
app.add_typer(admin)
app.add_typer(root_app, name="root")
app.add_typer(record_key_app, name="record-key")
app.add_typer(trust_app, name="trust")


def run(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name and return its exit code."""
    try:
        # In its standalone mode typer tells usage errors by itself, to people.
        code = app(list(arguments), standalone_mode=JSON not in arguments)
    except SystemExit as end:
        code = end.code
    except TyperException as error:
        typer.echo(failure_as_json(CommandError(error.format_message())), err=True)
        code = USAGE
    except typer.Abort:
        code = 1
    return code if isinstance(code, int) else int(code is not None)


@app.command()
def init(  # noqa: PLR0913  # the realm's constants
    folder: Annotated[Path, typer.Argument(help="Where the files go; it is made if it is not there.")],
    *,
    realm: Annotated[str, typer.Option(help="The realm, such as example.org. It can never change.")],
    suites: Annotated[str, typer.Option(help="The allowed suites, with commas.")] = "RSA3072_AES256",
    record_lifetime: Annotated[str, typer.Option(help="How long a record is good at most.")] = "1h",
    rotation_period: Annotated[str, typer.Option(help="How long a session may be sent under.")] = "7d",
    rotation_messages: Annotated[int, typer.Option(min=1, help="Messages a device sends under a session.")] = 10_000,
    mailbox_age: Annotated[str, typer.Option(help="How long delivery keeps a message.")] = "30d",
    retention: Annotated[str, typer.Option(help="How long replaced keys stay in the record.")] = "60d",
    longest_key_lifetime: Annotated[str, typer.Option(help="The longest lifetime of a device key.")] = "398d",
    renewal_window: Annotated[str, typer.Option(help="How long after its expiry a key may be renewed.")] = "180d",
    validity: Annotated[str, typer.Option(help="How long trust statement and record key are valid.")] = "365d",
    passphrase_file: PassphraseFile = None,
    no_passphrase: NoPassphrase = False,
    as_json: Json = False,
) -> None:
    """Make a realm: its keys and its constants.

    Writes a root key, sealed by a passphrase, the first record key and the signed trust statement; overwrites nothing.
    Durations are written 30s, 90m, 12h or 60d. Take root.key offline afterwards: the CA serves without it.
    """
    durations = {
        "record_lifetime": record_lifetime,
        "rotation_period": rotation_period,
        "mailbox_age": mailbox_age,
        "retention": retention,
        "longest_key_lifetime": longest_key_lifetime,
        "renewal_window": renewal_window,
    }
    try:
        constants = commands.read_constants(durations, rotation_messages, suites.split(","))
        passphrase = None if no_passphrase else passphrase_of(passphrase_file, "the root key", new=True)
        made = commands.init_realm(folder, realm, constants, validity, system_clock(), passphrase=passphrase)
    except CommandError as error:
        fail(error)
    print_facts(made, as_json=as_json)
    if not as_json:
        typer.echo(f"Take {made['root_key']} offline now: only the next trust statement needs it.")


@app.command()
def bundle(  # noqa: PLR0913  # what stands in a bundle
    *,
    realm_folder: Folder,
    ca: Annotated[str, typer.Option(help="host:port of the CA's public port.")],
    directory: Annotated[str, typer.Option(help="host:port of the directory's public port.")],
    delivery: Annotated[str, typer.Option(help="host:port of delivery's public port.")],
    tls_roots: Annotated[Path, typer.Option(help="PEM file: the roots of the services' TLS certificates.")],
    oidc_issuer: Annotated[
        str | None, typer.Option(help="The issuer at which users sign in, exactly as it names itself.")
    ] = None,
    oidc_client_id: Annotated[str | None, typer.Option(help="The client id that Keypost has there.")] = None,
    oidc_scope: Annotated[str, typer.Option(help="What clients ask it for.")] = "openid profile",
    oidc_tls_roots: Annotated[
        Path | None,
        typer.Option(help="PEM file: the roots of its TLS certificate; without it, those of each operating system."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="A file to write; without it, standard output.")] = None,
) -> None:
    """Print the bundle from which clients start.

    It is JSON: the realm, the endpoints, the root keys, and the roots of the services' TLS certificates. Nothing in it
    is secret, but whoever changes it decides whom a new client believes: hand it out by a way that you trust.
    """
    endpoints = {"ca": ca, "directory": directory, "delivery": delivery}
    try:
        oidc = commands.read_oidc(oidc_issuer, oidc_client_id, oidc_scope, oidc_tls_roots)
        text = commands.bundle_of(realm_folder, endpoints, tls_roots, system_clock(), oidc)
        if output is not None:
            output.write_text(f"{text}\n", encoding="utf-8")
    except (CommandError, OSError) as error:
        fail(error)
    if output is None:
        typer.echo(text)


@app.command()
def code(
    username: Annotated[str, typer.Argument(help="The user that the code enrols a device for.")],
    *,
    realm_folder: Folder,
    database: Database,
    expires: Annotated[str, typer.Option(help="How long the code is good.")] = "1d",
    as_json: Json = False,
) -> None:
    """Make a one-time code for one user.

    It is shown once: the CA keeps a hash. The CA may be serving meanwhile.
    """
    from keypost_services.ca import database_commands  # noqa: PLC0415  # what opens a database is slow to import

    try:
        made = database_commands.make_code(realm_folder, database, username, expires, system_clock())
    except CommandError as error:
        fail(error)
    print_facts(vars(made), as_json=as_json)


@app.command()
def migrate(
    *,
    database: Database,
    grant: Annotated[
        str | None, typer.Option(help="PostgreSQL: a role to serve as, granted what a CA needs and no more.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring the database to this version's tables.

    `serve` does it too, if its role may.
    """
    from keypost_services.ca import database_commands  # noqa: PLC0415  # as above

    try:
        step = database_commands.migrate_database(database, grant)
    except CommandError as error:
        fail(error)
    print_facts({"step": step}, as_json=as_json)


@app.command("after-restore")
def after_restore(
    *,
    database: Database,
    audit_file: Annotated[
        Path | None,
        typer.Option("--audit", help="The audit log as it was kept elsewhere: what `audit list --json` printed."),
    ] = None,
    head: Noted = "",
    issuer: Annotated[
        str,
        typer.Option(
            envvar="KEYPOST_CA_OIDC_ISSUER", help="The issuer at which users signed in, exactly as it names itself."
        ),
    ] = "",
    without_audit: Annotated[
        bool, typer.Option("--without-audit", help="There is no log: what was changed since the backup is lost.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether a CA is serving.")] = False,
    as_json: Json = False,
) -> None:
    """Make a database fit to serve that was restored from a backup.

    Makes again what the audit log tells and the database lacks. Then ends what may have been used up or stopped since:
    all one-time codes, and identity resets that were announced. Directories drop what they hold. No CA may be serving.
    """
    from keypost_services.ca import database_commands  # noqa: PLC0415  # as above

    noted = read_noted(head)
    try:
        _check_restoring(audit_file, without_audit=without_audit, yes=yes)
        checked = issuer and check_issuer(issuer)
        done = database_commands.after_restore(database, audit_file, noted, checked, system_clock())
    except (CommandError, ValueError) as error:
        fail(error)
    print_facts(vars(done), as_json=as_json)


def _check_restoring(audit: Path | None, *, without_audit: bool, yes: bool) -> None:
    """Have a person agree; that a log is missing, whoever uses --yes must have said too: a script may have lost it."""
    if audit is not None and without_audit:
        raise CommandError("nothing was done: --audit and --without-audit contradict each other")
    if audit is None and yes and not without_audit:
        raise CommandError("nothing was done: name the log by --audit, or say --without-audit")
    check_agreed("No CA is serving from this database?", "nothing was done", yes=yes)
    if audit is None:
        question = "Without --audit, what was changed since the backup is lost: revoked keys are good again. Go on?"
        check_agreed(question, "nothing was done", yes=without_audit)
