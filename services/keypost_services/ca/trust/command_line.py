"""The commands about root keys, record keys and trust statements, as they are typed."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import Annotated

import typer

from keypost.clock import system_clock
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost_services.ca.command_options import Folder, NoPassphrase, PassphraseFile, passphrase_of
from keypost_services.ca.durations import parse_duration
from keypost_services.ca.printing import CommandError, Json, check_agreed, fail, print_facts
from keypost_services.ca.trust import commands
from keypost_services.ca.trust.drafts import Edits
from keypost_services.ca.trust.review import short

_OPTIONS = {"no_args_is_help": True, "add_completion": False, "rich_markup_mode": None}
root_app = typer.Typer(help="Use the root key, on the machine without a network.", **_OPTIONS)  # type: ignore[arg-type]
record_key_app = typer.Typer(help="Make record keys.", **_OPTIONS)  # type: ignore[arg-type]
trust_app = typer.Typer(help="Prepare, install and show the realm's trust statement.", **_OPTIONS)  # type: ignore[arg-type]

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DEFAULT_VALIDITY = "365d"


@root_app.command("new")
def root_new(
    file: Annotated[Path, typer.Argument(help="The private key; the public one goes beside it, as .pem.")],
    *,
    passphrase_file: PassphraseFile = None,
    no_passphrase: NoPassphrase = False,
    as_json: Json = False,
) -> None:
    """Make a root key, sealed by a passphrase.

    A trust statement has to list it before it can sign one: `trust draft --add-root-key`. Overwrites nothing.
    """
    try:
        passphrase = None if no_passphrase else passphrase_of(passphrase_file, str(file), new=True)
        made = commands.new_key(file, passphrase, public=file.with_suffix(".pem"))
    except CommandError as error:
        fail(error)
    print_facts(made, as_json=as_json)


@root_app.command("sign")
def root_sign(
    draft: Annotated[Path, typer.Argument(help="What `trust draft` wrote.")],
    signed: Annotated[Path, typer.Argument(help="Where the signed statement goes.")],
    *,
    root_key: Annotated[Path, typer.Option(help="The private root key.")],
    known_root: Annotated[
        list[Path] | None,
        typer.Option(help="PEM file: public root keys that signed the statement before, if this key did not."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Sign in spite of problems.")] = False,
    as_json: Json = False,
) -> None:
    """Sign the next trust statement.

    Shows what it changes against the statement before, whose signature is checked, and asks. What is likely a mistake
    is signed with --force alone.
    """
    try:
        reviewed = commands.review(draft, root_key, known_root or [], system_clock())
        _show_review(reviewed, quiet=as_json)
        _check_agreed(reviewed, yes=yes, force=force)
        made = commands.sign(reviewed, root_key, lambda: passphrase_of(passphrase_file, str(root_key)), signed)
    except CommandError as error:
        fail(error)
    said = {"changes": reviewed.changes, "problems": reviewed.problems} if as_json else {}
    print_facts({**made, **said}, as_json=as_json)


@record_key_app.command("new")
def record_key_new(
    *,
    realm_folder: Folder,
    sealed: Annotated[
        bool, typer.Option("--sealed", help="Seal it by a passphrase, which `serve` needs then.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make a record key, in the realm's folder.

    It signs nothing before a trust statement lists it: `trust draft --add-record-key` with its .pem file.
    """
    try:
        passphrase = passphrase_of(passphrase_file, "the record key", new=True) if sealed else None
        made = commands.new_record_key(realm_folder, passphrase)
    except CommandError as error:
        fail(error)
    print_facts(made, as_json=as_json)


@trust_app.command("draft")
def trust_draft(  # noqa: PLR0913  # what may change
    file: Annotated[Path, typer.Argument(help="Where the draft goes: it is what the offline machine needs.")],
    *,
    realm_folder: Folder,
    validity: Annotated[str, typer.Option(help="How long the statement is valid.")] = DEFAULT_VALIDITY,
    add_record_key: Annotated[list[Path] | None, typer.Option(help="PEM file of a record key to list.")] = None,
    start: Annotated[str, typer.Option("--in", help="In how long the added record keys come into force.")] = "2h",
    record_key_validity: Annotated[
        str, typer.Option(help="How long the added record keys are in force.")
    ] = DEFAULT_VALIDITY,
    extend_record_key: Annotated[
        list[str] | None, typer.Option(help="Fingerprint of a record key that is to last as long as the statement.")
    ] = None,
    retire_record_key: Annotated[
        list[str] | None, typer.Option(help="Fingerprint of a record key that is to be listed no longer.")
    ] = None,
    add_root_key: Annotated[list[Path] | None, typer.Option(help="PEM file of a root key to list.")] = None,
    remove_root_key: Annotated[
        list[str] | None, typer.Option(help="Fingerprint of a root key that is to be listed no longer.")
    ] = None,
    constant: Annotated[
        list[str] | None, typer.Option(help="A realm constant, such as retention=90d or allowed_suites=RSA3072_AES256.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the draft of the next trust statement.

    It repeats the one in the realm's folder, with what the options change; record keys that are over are left out. Of
    fingerprints the first 8 digits do. Nothing comes into force before `root sign` and `trust install`.
    """
    now = system_clock()
    try:
        edits = Edits(
            until_time=now + _duration(validity),
            new_record_keys=_record_keys(add_record_key or [], now + _duration(start), _duration(record_key_validity)),
            retired_record_keys=retire_record_key or [],
            extended_record_keys=extend_record_key or [],
            new_root_keys=commands.public_keys(add_root_key or []),
            removed_root_keys=remove_root_key or [],
            constants=_constants(constant or []),
        )
        changes = commands.draft(realm_folder, file, edits, now)
    except CommandError as error:
        fail(error)
    print_facts({"changes": changes, "draft": str(file)}, as_json=as_json)


@trust_app.command("install")
def trust_install(
    signed: Annotated[Path, typer.Argument(help="What `root sign` wrote.")],
    *,
    realm_folder: Folder,
    force: Annotated[bool, typer.Option("--force", help="Although no record key here would be in force.")] = False,
    as_json: Json = False,
) -> None:
    """Put the next trust statement into the realm's folder.

    A CA that serves takes it up within KEYPOST_CA_REALM_POLL_SECONDS; clients and services fetch it from there.
    """
    try:
        installed = commands.install(realm_folder, signed, system_clock(), force=force)
    except CommandError as error:
        fail(error)
    print_facts(installed, as_json=as_json)


@trust_app.command("show")
def trust_show(*, realm_folder: Folder, as_json: Json = False) -> None:
    """Show what the trust statement says, and at which stage the record keys are.

    prepared: listed, and not in force yet. active: signs records. in force: what it signed is believed. over: no more.
    """
    try:
        shown = commands.show(realm_folder, system_clock())
    except CommandError as error:
        fail(error)
    print_facts(shown, as_json=as_json)


def _show_review(reviewed: commands.Review, *, quiet: bool) -> None:
    if quiet:
        return
    after = reviewed.draft.next
    typer.echo(f"Root key {short(reviewed.root_key)} is to sign for {after.realm}:")
    for line in reviewed.changes:
        typer.echo(f"  {line}")
    for problem in reviewed.problems:
        typer.echo(f"  problem: {problem}")


def _check_agreed(reviewed: commands.Review, *, yes: bool, force: bool) -> None:
    if reviewed.problems and not force:
        raise CommandError(f"not signed: {'; '.join(reviewed.problems)} (--force signs it all the same)")
    check_agreed("Sign this?", "not signed", yes=yes)


def _duration(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _record_keys(files: list[Path], from_time: int, validity: int) -> list[pb.RecordKey]:
    return [
        pb.RecordKey(public_key_der=key, from_time=from_time, until_time=from_time + validity)
        for key in commands.public_keys(files)
    ]


def _constants(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise CommandError(f"{wrong[0]!r}: a constant is given as NAME=VALUE")
    return {name: value for name, _, value in pairs}
