"""The commands of ``keypost`` about the own user's devices."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003  # typer reads the annotations
from enum import StrEnum
from typing import Annotated

import typer

from keypost.cli import device_commands as commands
from keypost.cli.perform import Action, perform
from keypost.cli.sign_in import Proof
from keypost.cli.sign_in_options import Code, IdTokenFile, Oidc  # noqa: TC001  # typer reads the annotations
from keypost.cli.suites import SUITE_HELP, SuiteName

devices_app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Another device:  keypost devices invite               here
                 keypost join INVITATION              there
                 keypost devices approve REQUEST      here
""",
)

Device = Annotated[str, typer.Argument(help="The device: its private name, its id or its address.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class Reason(StrEnum):
    """Why a device is withdrawn."""

    RETIRED = "retired"
    LOST = "lost"
    COMPROMISED = "compromised"


def _perform(context: typer.Context, action: Action, *, creates: bool = False, asks: bool = False) -> None:
    raise typer.Exit(perform(context.obj, action, creates=creates, asks=asks))


@devices_app.callback()
def devices(context: typer.Context) -> None:
    """Show your own devices and their keys, or invite, approve, name and revoke one."""
    if context.invoked_subcommand is None:
        _perform(context, commands.list_devices())


@devices_app.command()
def invite(context: typer.Context) -> None:
    """Invite a further device of yours, for ten minutes.

    The invitation is no secret, but it must reach your own device: whoever exchanges it has that device join somebody
    else.
    """
    _perform(context, commands.invite())


@devices_app.command()
def approve(
    context: typer.Context,
    request: Annotated[
        str | None, typer.Argument(help="What `join` shows on the new device; without it, it is read or asked for.")
    ] = None,
    *,
    yes: Yes = False,
) -> None:
    """Make the device that asks by REQUEST one of yours.

    It reads what is sent to you from then on. You are shown its key first.
    """
    _perform(context, commands.approve(request, yes=yes), asks=not yes)


@devices_app.command()
def name(
    context: typer.Context,
    device: Device,
    label: Annotated[str | None, typer.Argument(metavar="NAME", help="The name; without it, there is none.")] = None,
) -> None:
    """Give DEVICE a private name: it stays in this profile."""
    _perform(context, commands.name(device, label))


@devices_app.command()
def revoke(
    context: typer.Context,
    device: Device,
    *,
    reason: Annotated[Reason, typer.Option(help="Why.")] = Reason.LOST,
    since: Annotated[
        datetime | None,
        typer.Option(help="For a compromised one: since when somebody may have had its key (UTC). Default: now."),
    ] = None,
    yes: Yes = False,
) -> None:
    """Withdraw DEVICE for good: it neither reads nor sends any more.

    A compromised one takes with it the devices that it has approved since then, and nothing that it signed is trusted.
    """
    _perform(context, commands.revoke(device, reason, since, yes=yes), asks=not yes)


@devices_app.command()
def cancel_reset(context: typer.Context) -> None:
    """Stop an identity reset that somebody asked for in your name."""
    _perform(context, commands.cancel_reset())


def join(
    context: typer.Context,
    invitation: Annotated[
        str | None, typer.Argument(help="What `devices invite` shows; without it, wait for the approval.")
    ] = None,
    *,
    suite: Annotated[SuiteName, typer.Option(help=SUITE_HELP)] = SuiteName.RSA3072_AES256,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Show the request and stop; `keypost join` finishes it.")
    ] = False,
) -> None:
    """Make this profile a further device of the user who sent INVITATION.

    Its private key is made here and never leaves. Compare the safety number on both devices before you send anything.
    """
    _perform(context, commands.join(invitation, suite, wait=not no_wait), creates=invitation is not None)


def reset(
    context: typer.Context,
    username: Annotated[str, typer.Argument(help="Your username.")],
    *,
    code: Code = None,
    oidc: Oidc = False,
    id_token_file: IdTokenFile = None,
    yes: Yes = False,
) -> None:
    """Ask for a new identity of USERNAME, whose devices are all out of reach.

    All of them are told, and each can cancel it. A day later (as the realm says) `keypost enroll` withdraws them.
    """
    proof = Proof(code, id_token_file, by_browser=oidc)
    _perform(context, commands.reset(username, proof, yes=yes), creates=True, asks=not yes)


def add_to(app: typer.Typer) -> None:
    """Give the command line the commands about devices."""
    app.add_typer(devices_app, name="devices")
    app.command()(join)
    app.command()(reset)
