"""The commands of ``keypost``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from keypost.cli import commands
from keypost.cli.exit_codes import ExitCode
from keypost.cli.profiles import DEFAULT_PROFILE
from keypost.cli.session import Action, Options, perform

if TYPE_CHECKING:
    from collections.abc import Sequence


class SuiteName(StrEnum):
    """The suites by name."""

    RSA3072_AES256 = "RSA3072_AES256"
    RSA1024_AES128 = "RSA1024_AES128"


SUITE_HELP = "The algorithms of the key pair. RSA1024_AES128 is broken in practice; realms do not allow it by default."
EPILOGUE = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a service is unreachable, 4 a service refused, "
    "5 a key or identity is not as it must be, 6 the local key store cannot be used, 130 interrupted."
)

app = typer.Typer(
    name="keypost",
    help="Send and receive end-to-end encrypted messages.",
    epilog=EPILOGUE,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Username = Annotated[str, typer.Argument(help="A user, such as bob.")]


@app.callback()
def options(
    context: typer.Context,
    *,
    profile: Annotated[
        str, typer.Option(envvar="KEYPOST_PROFILE", help="This device's local state: a name, or the path of a folder.")
    ] = DEFAULT_PROFILE,
    bundle: Annotated[
        Path | None,
        typer.Option(envvar="KEYPOST_BUNDLE", help="The realm's bundle; needed once, to enroll, or when it changed."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")] = False,
    steps: Annotated[bool, typer.Option("--steps", help="Show the protocol's steps as they happen.")] = False,
    minimum_suite: Annotated[
        SuiteName, typer.Option(envvar="KEYPOST_MINIMUM_SUITE", help="Refuse keys weaker than this suite.")
    ] = SuiteName.RSA3072_AES256,
    key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="KEYPOST_KEY_FILE", help="Unlock the profile by this file of 32 bytes instead of a passphrase."
        ),
    ] = None,
) -> None:
    """Send and receive end-to-end encrypted messages.

    The passphrase of the profile is asked for, or taken from KEYPOST_PASSPHRASE.
    """
    context.obj = Options(profile, bundle, json, steps, minimum_suite, key_file)


def _perform(context: typer.Context, action: Action, *, creates: bool = False) -> None:
    raise typer.Exit(perform(context.obj, action, creates=creates))


@app.command()
def enroll(
    context: typer.Context,
    username: Username,
    *,
    code: Annotated[
        str | None, typer.Option(envvar="KEYPOST_CODE", help="The one-time code from your administrator.")
    ] = None,
    suite: Annotated[SuiteName, typer.Option(help=SUITE_HELP)] = SuiteName.RSA3072_AES256,
) -> None:
    """Make this profile a device of USERNAME: generate its key pair and publish the public key."""
    _perform(context, commands.enroll(username, code, suite), creates=True)


@app.command()
def send(
    context: typer.Context,
    username: Username,
    text: Annotated[str | None, typer.Argument(help="The message; without it, standard input is sent.")] = None,
    *,
    file: Annotated[Path | None, typer.Option("--file", help="Send this file instead.")] = None,
    media_type: Annotated[str | None, typer.Option(help="What the message is, such as application/json.")] = None,
) -> None:
    """Send a message to USERNAME: an argument, standard input, or a file."""
    _perform(context, commands.send(username, text, file, media_type))


@app.command()
def receive(
    context: typer.Context,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on waiting for messages until Ctrl-C.")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many messages; waits for them.")] = None,
    output_dir: Annotated[
        Path, typer.Option(file_okay=False, help="Where files go; nothing there is overwritten.")
    ] = commands.DEFAULT_FOLDER,
) -> None:
    """Show the messages that wait; with --follow also those that arrive."""
    _perform(context, commands.receive(output_dir, count, follow=follow))


@app.command()
def keys(context: typer.Context, username: Username) -> None:
    """Show the keys of USERNAME as the Certificate Authority states them, verified here."""
    _perform(context, commands.keys(username))


@app.command()
def devices(context: typer.Context) -> None:
    """Show the devices of this profile's own user."""
    _perform(context, commands.devices())


@app.command()
def renew(context: typer.Context) -> None:
    """Replace this device's key pair by a new one, in eight steps."""
    _perform(context, commands.renew())


@app.command()
def accept(
    context: typer.Context,
    username: Username,
    root: Annotated[
        str, typer.Argument(help="The fingerprint of the new root, as the error IDENTITY_CHANGED names it.")
    ],
) -> None:
    """Accept that USERNAME has a new identity, after you compared its fingerprint in another way."""
    _perform(context, commands.accept(username, root))


@app.command()
def rotate(context: typer.Context, username: Username) -> None:
    """Negotiate a new session key with USERNAME now."""
    _perform(context, commands.rotate(username))


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; usage errors are told by typer itself."""
    try:
        app(list(arguments), prog_name="keypost")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return ExitCode.OK
