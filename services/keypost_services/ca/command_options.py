"""Options that several commands of ``keypost-ca`` have."""

from __future__ import annotations

from pathlib import Path  # typer reads the annotations
from typing import Annotated

import typer

from keypost_services.ca.printing import CommandError
from keypost_services.ca.trust.passphrases import PassphraseMissingError, ask

Folder = Annotated[Path, typer.Option(envvar="KEYPOST_CA_REALM_FOLDER", help="The realm's folder, as `init` makes it.")]
Database = Annotated[
    str, typer.Option(envvar="KEYPOST_CA_DATABASE", help="Database URL, such as sqlite:////var/lib/keypost/ca.db.")
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="File whose first line is the passphrase; without it, KEYPOST_CA_PASSPHRASE or the terminal."),
]
NoPassphrase = Annotated[bool, typer.Option(help="Seal the root key by nothing: for development alone.")]


def passphrase_of(file: Path | None, what: str, *, new: bool = False) -> str:
    """Return the passphrase of a key file.

    Raises:
        CommandError: there is none.
    """
    try:
        return ask(file, what, new=new)
    except PassphraseMissingError as error:
        raise CommandError(str(error)) from error
