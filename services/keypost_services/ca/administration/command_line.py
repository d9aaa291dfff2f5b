"""``keypost-ca admin``: what administrators do from their own machines, over mutual TLS."""

from __future__ import annotations

import asyncio
import enum
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keypost.ca.v1 import administration_service_pb2 as pb
from keypost.errors import RefusedError, UnreachableError
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost_services.ca.administration.access import Access, AccessError, read_access
from keypost_services.ca.administration.certificate_request import make_request
from keypost_services.ca.administration.client import AdministrationClient, open_client
from keypost_services.ca.administration.convert import read_audit_entry
from keypost_services.ca.administration.shown import (
    facts_of_code,
    facts_of_summary,
    facts_of_user,
    line_of_code,
    line_of_key,
    line_of_summary,
    lines_of_user,
)
from keypost_services.ca.audit_command_line import (
    About,
    After,
    Noted,
    Since,
    Until,
    print_entries,
    print_verified,
    read_noted,
    read_wanted,
)
from keypost_services.ca.audit_lines import ALL
from keypost_services.ca.durations import parse_duration
from keypost_services.ca.printing import FILE, CommandError, Json, check_agreed, fail, print_facts, read_time

if TYPE_CHECKING:
    from keypost_services.ca.audit_lines import Entries, Wanted

UNREACHABLE, REFUSED = 3, 4
"""Exit codes: the CA does not answer, the CA refused."""
Act = Callable[[AdministrationClient], Awaitable[None]]
Username = Annotated[str, typer.Argument(help="The user.")]
ForUser = Annotated[str, typer.Option("--user", help="Only codes for this user.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

admin = typer.Typer(name="admin", no_args_is_help=True)
audit = typer.Typer(name="audit", help="Read the audit log.", no_args_is_help=True)
admin.add_typer(audit)


class Reason(enum.StrEnum):
    """Why an administrator withdraws a key."""

    LOST = "lost"
    RETIRED = "retired"
    COMPROMISED = "compromised"

    @property
    def number(self) -> keys_pb.RevocationReason.ValueType:
        """Its number in statements."""
        return keys_pb.RevocationReason.Value(f"REVOCATION_REASON_{self.name}")


@dataclass(frozen=True)
class Options:
    """How the CA is reached, as far as it was said."""

    ca: str | None
    certificate: Path | None
    private_key: Path | None
    root: Path | None

    def access(self) -> Access:
        """Read what they name.

        Raises:
            CommandError: One is missing.
            AccessError: A file is missing or wrong.
        """
        if self.ca is None or self.certificate is None or self.private_key is None or self.root is None:
            missing = [name for name, value in vars(self).items() if value is None]
            names = " and ".join(f"--{name.replace('_', '-')} (KEYPOST_ADMIN_{name.upper()})" for name in missing)
            raise CommandError(f"keypost-ca admin needs {names}")
        return read_access(self.ca, self.certificate, self.private_key, self.root)


@admin.callback()
def options(
    context: typer.Context,
    *,
    ca: Annotated[
        str | None, typer.Option(envvar="KEYPOST_ADMIN_CA", help="host:port of the CA's internal port.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(envvar="KEYPOST_ADMIN_CERTIFICATE", help="PEM file: your certificate.")
    ] = None,
    private_key: Annotated[
        Path | None, typer.Option(envvar="KEYPOST_ADMIN_PRIVATE_KEY", help="PEM file: its private key.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(envvar="KEYPOST_ADMIN_ROOT", help="PEM file: the root of the internal port.")
    ] = None,
) -> None:
    """Administer users, with a certificate.

    Calls the internal port of the CA over mutual TLS.
    """
    context.obj = Options(ca, certificate, private_key, root)


@admin.command("request")
def request_certificate(
    name: Annotated[str, typer.Argument(help="The administrator: 1 to 64 of a-z 0-9 . _ -.")],
    *,
    realm: Annotated[str, typer.Option(help="The realm, such as example.org.")],
    folder: Annotated[Path, typer.Option(help="Where NAME.key and NAME.csr go.")],
    as_json: Json = False,
) -> None:
    """Make a private key, and a request for its certificate.

    The private key stays where it is. Have the request signed by the internal root as it stands.
    """
    try:
        made = make_request(folder, realm, name)
    except FileExistsError as error:
        fail(CommandError(f"{error.filename} is there already: nothing is overwritten", FILE))
    except (ValueError, OSError) as error:
        fail(error)
    print_facts(vars(made), as_json=as_json)


@admin.command()
def invite(
    context: typer.Context,
    username: Annotated[str, typer.Argument(help="The user that the code enrols a device for.")],
    *,
    expires: Annotated[str, typer.Option(help="How long the code is good; 30d at most.")] = "1d",
    as_json: Json = False,
) -> None:
    """Make a one-time code for one user.

    It is shown once: the CA keeps a hash. Hand it over in a way that you trust. By its id it is listed and withdrawn.
    """

    async def act(client: AdministrationClient) -> None:
        made = await client.create_code(username, parse_duration(expires))
        facts = {"code": made.code, "code_id": made.code_id, "username": username, "expire_time": made.expire_time}
        print_facts(facts, as_json=as_json)

    _run(context, act)


@admin.command()
def codes(context: typer.Context, *, user: ForUser = "", as_json: Json = False) -> None:
    """List the one-time codes that are open.

    Neither used, nor withdrawn, nor expired. One a line, with the id by which it is withdrawn; with --json one object a
    line. The codes themselves nobody can list.
    """

    async def act(client: AdministrationClient) -> None:
        async for code in client.codes(user):
            typer.echo(json.dumps(facts_of_code(code)) if as_json else line_of_code(code))

    _run(context, act)


@admin.command("withdraw-code")
def withdraw_code(
    context: typer.Context,
    username: Username,
    code_id: Annotated[str, typer.Argument(help="The code, 16 digits, as `codes` has it.")] = "",
    *,
    every: Annotated[bool, typer.Option("--all", help="All codes of the user that are open.")] = False,
    as_json: Json = False,
) -> None:
    """Withdraw a one-time code: it enrols nobody.

    What it has enrolled already stays: `revoke` withdraws that.
    """

    async def act(client: AdministrationClient) -> None:
        if every == bool(code_id):
            raise CommandError("name the id of one code, or say --all")
        _print_withdrawn(username, await client.withdraw_codes(username, None if every else code_id), as_json=as_json)

    _run(context, act)


@admin.command()
def users(context: typer.Context, *, as_json: Json = False) -> None:
    """List the users.

    One a line; with --json one object a line.
    """

    async def act(client: AdministrationClient) -> None:
        async for user in client.users():
            typer.echo(json.dumps(facts_of_summary(user)) if as_json else line_of_summary(user))

    _run(context, act)


@admin.command()
def show(context: typer.Context, username: Username, *, as_json: Json = False) -> None:
    """Show a user with every key that was ever recorded for them."""

    async def act(client: AdministrationClient) -> None:
        _print_user(await client.find_user(username), as_json=as_json)

    _run(context, act)


@admin.command()
def revoke(
    context: typer.Context,
    username: Username,
    device: Annotated[str, typer.Argument(help="The device, 16 characters, as `show` has it.")],
    *,
    reason: Annotated[Reason, typer.Option(help="Why. Of a compromised key, all that it vouched for since goes too.")],
    since: Annotated[str, typer.Option(help="compromised: since when, such as 2026-01-31T09:30 (UTC).")] = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Withdraw the key of a device. It is final.

    The revocation is signed with your private key and kept in the audit log.
    """

    async def act(client: AdministrationClient) -> None:
        since_time = _since_time(since, reason)
        user = await client.find_user(username)
        key = _key_of(user, device, reason)
        check_agreed(f"Withdraw as {reason}, for ever: {username}/{line_of_key(key)}?", "nothing was done", yes=yes)
        _print_user(await client.revoke(user, key, reason.number, since_time), as_json=as_json)

    _run(context, act)


@admin.command("allow-reset")
def allow_reset(context: typer.Context, username: Username, *, yes: Yes = False, as_json: Json = False) -> None:
    """Let a user's identity begin anew at once.

    All devices of the user are told. The next enrolment, by a sign-in, ends them all; everybody who writes to the user
    is asked to compare safety numbers again.
    """

    async def act(client: AdministrationClient) -> None:
        check_agreed(
            f"Let whoever signs in as {username} next replace all devices of {username}?", "nothing was done", yes=yes
        )
        _print_user(await client.allow_reset(username), as_json=as_json)

    _run(context, act)


@admin.command("cancel-reset")
def cancel_reset(context: typer.Context, username: Username, *, as_json: Json = False) -> None:
    """Stop an identity reset that was announced or allowed."""

    async def act(client: AdministrationClient) -> None:
        _print_user(await client.cancel_reset(username), as_json=as_json)

    _run(context, act)


@audit.command("list")
def list_entries(
    context: typer.Context,
    *,
    user: About = "",
    since: Since = "",
    until: Until = "",
    after: After = 0,
    as_json: Json = False,
) -> None:
    """List the entries of the audit log.

    One a line; with --json one object a line.
    """
    wanted = read_wanted(user, since, until, after)

    async def act(client: AdministrationClient) -> None:
        await print_entries(_entries_of(client, wanted), as_json=as_json)

    _run(context, act)


@audit.command("verify")
def verify_entries(context: typer.Context, *, head: Noted = "", as_json: Json = False) -> None:
    """Verify that no entry of the audit log was altered, removed or put in.

    Prints the head: note it elsewhere, and give it the next time. Without one, whoever can write to the database can
    cut the end off, or write the log anew.
    """
    noted = read_noted(head)

    async def act(client: AdministrationClient) -> None:
        await print_verified(_entries_of(client, ALL), noted, as_json=as_json)

    _run(context, act)


def _run(context: typer.Context, act: Act) -> None:
    async def run(access: Access) -> None:
        async with open_client(access) as client:
            await act(client)

    try:
        asyncio.run(run(context.obj.access()))
    except (AccessError, CommandError, ValueError) as error:
        fail(error)
    except UnreachableError as error:
        fail(error, UNREACHABLE)
    except RefusedError as error:
        fail(error, REFUSED)


async def _entries_of(client: AdministrationClient, wanted: Wanted) -> Entries:
    request = pb.ListAuditEntriesRequest(**_fields_of(wanted))
    async for message in client.audit_entries(request):
        yield read_audit_entry(message)


def _fields_of(wanted: Wanted) -> dict[str, Any]:
    return {
        "username": wanted.username,
        "from_time": wanted.from_time,
        "until_time": wanted.until_time,
        "after_sequence": wanted.after,
    }


def _key_of(user: pb.User, device: str, reason: Reason) -> pb.UserKey:
    """Return the newest key of a device that is not revoked yet; one that is can turn out to be compromised."""
    compromised = reason is Reason.COMPROMISED
    keys = [
        key for key in user.keys if key.device_id == device and (compromised or key.state != keys_pb.KEY_STATE_REVOKED)
    ]
    if not keys:
        raise CommandError(f"{user.username} has no device {device} with a key that could be revoked")
    return keys[-1]


def _since_time(since: str, reason: Reason) -> int:
    if not since:
        return 0
    if reason is not Reason.COMPROMISED:
        raise CommandError("--since: only a compromised key has one")
    return read_time(since)


def _print_withdrawn(username: str, code_ids: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"username": username, "code_ids": list(code_ids)}))
        return
    for line in [f"{username}  {code_id}  withdrawn" for code_id in code_ids] or [f"{username} has no open code"]:
        typer.echo(line)


def _print_user(user: pb.User, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts_of_user(user)))
        return
    for line in lines_of_user(user):
        typer.echo(line)
