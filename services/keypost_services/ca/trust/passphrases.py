"""Where the commands have the passphrase of a key file from: a file, the environment, or whoever types."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import typer

from keypost_services.ca.trust.realm_files import RealmFilesError
from keypost_services.ca.trust.realm_source import first_line

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE = "KEYPOST_CA_PASSPHRASE"


class PassphraseMissingError(Exception):
    """There is no passphrase, and nobody to ask."""


def ask(file: Path | None, what: str, *, new: bool = False) -> str:
    """Return a passphrase.

    Args:
        file: Its first line is the passphrase; None: the environment, or whoever sits at the terminal.
        what: What it opens, for the prompt.
        new: It is chosen now: who types has to type it twice.

    Raises:
        PassphraseMissingError: there is none.
    """
    try:
        passphrase = _passphrase(file, what, new=new)
    except RealmFilesError as error:
        raise PassphraseMissingError(str(error)) from error
    if not passphrase:
        raise PassphraseMissingError("an empty passphrase protects nothing: choose one")
    return passphrase


def _passphrase(file: Path | None, what: str, *, new: bool) -> str:
    if file is not None:
        return first_line(file)
    if VARIABLE in os.environ:
        return os.environ[VARIABLE]
    if not sys.stdin.isatty():
        raise PassphraseMissingError(f"the passphrase of {what} is needed: set {VARIABLE}, or give --passphrase-file")
    return str(typer.prompt(f"Passphrase of {what}", hide_input=True, confirmation_prompt=new, err=True))
