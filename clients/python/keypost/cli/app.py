"""The commands of ``keypost``."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import TyperException

from keypost.cli import backups, commands, device_app, files_app, verifying
from keypost.cli.errors import UsageError
from keypost.cli.exit_codes import ExitCode, list_of_codes
from keypost.cli.output import JsonOutput
from keypost.cli.perform import Action, Options, Prepare, perform
from keypost.cli.profiles import DEFAULT_PROFILE, profile_names
from keypost.cli.sign_in import Proof
from keypost.cli.sign_in_options import Code, IdTokenFile, Oidc  # noqa: TC001  # typer reads the annotations
from keypost.cli.suites import SUITE_HELP, SuiteName
from keypost.client.context import IdentityChange  # noqa: TC001  # typer reads the annotation
from keypost.programs.version import Version  # noqa: TC001  # typer reads the annotation

if TYPE_CHECKING:
    from collections.abc import Sequence


JSON = "--json"
# One paragraph each: typer keeps the line breaks of a paragraph that begins with \b.
EPILOGUE = f"""\b
Begin:
  keypost --bundle bundle.json enroll alice
  keypost send bob "hello"
  keypost receive

Tab completion: keypost --install-completion, once.

\b
Exit codes:
{list_of_codes()}
"""

app = typer.Typer(
    name="keypost",
    epilog=EPILOGUE,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Suite = Annotated[SuiteName, typer.Option(help=SUITE_HELP)]
Username = Annotated[str, typer.Argument(help="A user, such as bob.")]


def complete_profile(incomplete: str) -> list[str]:
    """Return the names of the own profiles that begin so."""
    return [name for name in profile_names() if name.startswith(incomplete)]


@app.callback()
def options(  # noqa: PLR0913  # what goes before every command
    context: typer.Context,
    *,
    profile: Annotated[
        str,
        typer.Option(
            envvar="KEYPOST_PROFILE",
            help="Which device to be: the name of a profile, or the path of its folder.",
            autocompletion=complete_profile,
        ),
    ] = DEFAULT_PROFILE,
    bundle: Annotated[
        Path | None,
        typer.Option(envvar="KEYPOST_BUNDLE", help="The realm's bundle: to enroll, and when it has changed."),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(envvar="KEYPOST_KEY_FILE", help="Unlock the profile by this file; enroll makes it."),
    ] = None,
    key_ring: Annotated[
        bool, typer.Option("--key-ring", envvar="KEYPOST_KEY_RING", help="Unlock the profile by the system's key ring.")
    ] = False,
    minimum_suite: Annotated[
        SuiteName, typer.Option(envvar="KEYPOST_MINIMUM_SUITE", help="Refuse keys weaker than this suite.")
    ] = SuiteName.RSA3072_AES256,
    on_identity_change: Annotated[
        IdentityChange,
        typer.Option(
            envvar="KEYPOST_ON_IDENTITY_CHANGE",
            help="When a user who is not verified has another identity: send nothing, or go on with a warning.",
        ),
    ] = "block",
    steps: Annotated[bool, typer.Option("--steps", help="Show the protocol's steps as they happen.")] = False,
    json: Annotated[bool, typer.Option(JSON, help="Print one JSON object a line, errors too.")] = False,
    version: Version = False,  # noqa: ARG001  # it has acted when this is called
) -> None:
    """Send and receive end-to-end encrypted messages.

    A profile is unlocked by its passphrase, asked for or taken from KEYPOST_PASSPHRASE, unless you say otherwise.
    """
    context.obj = Options(
        profile, bundle, json, steps, minimum_suite, key_file, key_ring, on_identity_change=on_identity_change
    )


def _perform(context: typer.Context, action: Action, *, creates: bool = False, prepare: Prepare | None = None) -> None:
    raise typer.Exit(perform(context.obj, action, creates=creates, prepare=prepare))


@app.command()
def enroll(
    context: typer.Context,
    username: Username,
    *,
    code: Code = None,
    oidc: Oidc = False,
    id_token_file: IdTokenFile = None,
    suite: Suite = SuiteName.RSA3072_AES256,
) -> None:
    """Make this profile a device of USERNAME.

    Its private key is made here and never leaves; its public key is published.
    """
    _perform(context, commands.enroll(username, Proof(code, id_token_file, by_browser=oidc), suite), creates=True)


@app.command()
def nonce(context: typer.Context, username: Username, *, suite: Suite = SuiteName.RSA3072_AES256) -> None:
    """Print the nonce of the ID token for USERNAME.

    `enroll --id-token-file` takes such a token. It is of the key that is to be recorded, and stays the same until then.
    """
    _perform(context, commands.nonce(username, suite), creates=True)


@app.command(
    epilog="""\b
Examples:  keypost send bob "hello"
           date | keypost send bob
           keypost send bob --file photo.jpg
"""
)
def send(
    context: typer.Context,
    username: Username,
    text: Annotated[str | None, typer.Argument(help="The message; without it, standard input is sent.")] = None,
    *,
    file: Annotated[Path | None, typer.Option("--file", help="Send this file instead.")] = None,
    media_type: Annotated[str | None, typer.Option(help="What the message is, such as application/json.")] = None,
) -> None:
    """Send a message or a file to USERNAME."""
    _perform(context, commands.send(username, text, file, media_type))


@app.command()
def receive(
    context: typer.Context,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on waiting for messages until Ctrl-C.")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Wait for this many messages, then stop.")] = None,
    output_dir: Annotated[
        Path, typer.Option(file_okay=False, help="Where received files go; none is overwritten.")
    ] = commands.DEFAULT_FOLDER,
) -> None:
    """Show the messages that wait."""
    _perform(context, commands.receive(output_dir, count, follow=follow))


@app.command()
def outbox(
    context: typer.Context,
    *,
    flush: Annotated[bool, typer.Option("--flush", help="Send it first, and list what remains.")] = False,
) -> None:
    """List the messages that are on their way, or send them.

    What an earlier failure left is kept until delivery has stored it, and goes out by itself while a client is open.
    """
    _perform(context, commands.outbox(flush=flush))


@app.command("set-aside")
def set_aside(
    context: typer.Context,
    *,
    retry: Annotated[bool, typer.Option("--retry", help="Try all of it again.")] = False,
) -> None:
    """List the messages that were set aside, or try them again.

    They could not be opened, or were handed out five times and never handled; they are kept.
    """
    _perform(context, commands.set_aside(retry=retry))


@app.command()
def keys(context: typer.Context, username: Username) -> None:
    """Show the keys of USERNAME, verified."""
    _perform(context, commands.keys(username))


@app.command()
def renew(context: typer.Context) -> None:
    """Replace this device's key pair by a new one."""
    _perform(context, commands.renew())


@app.command(
    epilog="""\b
Examples:  keypost verify bob
           keypost --json verify bob --matches "12345 67890 …"
"""
)
def verify(
    context: typer.Context,
    username: Username,
    *,
    matches: Annotated[str | None, typer.Option(metavar="DIGITS", help="The 60 digits that USERNAME sees.")] = None,
    scan: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The text of the QR code that USERNAME shows.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the mark back.")] = False,
) -> None:
    """Compare safety numbers with USERNAME, and mark USERNAME as verified.

    Both of you see the same 60 digits and the same QR code, or somebody is between the two of you.
    """
    _perform(context, verifying.verify(username, matches, scan, remove=remove))


@app.command()
def accept(
    context: typer.Context,
    username: Username,
    root: Annotated[str, typer.Argument(help="The new fingerprint, as the error IDENTITY_CHANGED names it.")],
) -> None:
    """Accept that USERNAME has a new identity.

    Compare the fingerprint with that person first, by telephone or face to face: it may be an attack. Better: verify.
    """
    _perform(context, commands.accept(username, root))


@app.command()
def rotate(context: typer.Context, username: Username) -> None:
    """Agree on a new session key with USERNAME now."""
    _perform(context, commands.rotate(username))


@app.command()
def backup(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="The backup; nothing is overwritten.")] = None,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Rewrite it before each renewal from now on.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Rewrite none any more; the file stays.")] = False,
) -> None:
    """Write all of this profile into FILE, sealed by a passphrase of its own.

    The passphrase is asked for, or taken from KEYPOST_BACKUP_PASSPHRASE.
    """
    _perform(context, backups.backup(file, keep=keep, stop=stop))


@app.command(
    epilog="""\b
Example:  keypost --profile new restore alice.backup
"""
)
def restore(context: typer.Context, file: Annotated[Path, typer.Argument(help="The backup.")]) -> None:
    """Make this profile from a backup: a move to new hardware.

    Its key is renewed at once, and any other copy of the device stops.
    """
    _perform(context, backups.restore(), prepare=backups.from_backup(file, context.obj.bundle))


files_app.add_to(app)
device_app.add_to(app)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    as_json = JSON in arguments
    try:
        # In its standalone mode typer tells usage errors by itself, to people.
        code = app(list(arguments), prog_name="keypost", standalone_mode=not as_json)
    except SystemExit as end:
        code = end.code
    except TyperException as error:
        JsonOutput().error(UsageError.reason, error.format_message(), "`keypost --help` shows how.", {})
        code = ExitCode.USAGE
    return code if isinstance(code, int) else int(code is not None)
