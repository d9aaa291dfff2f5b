"""Passphrases: from a variable of the environment, or from the person at the terminal."""

from __future__ import annotations

import getpass
import hmac
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from keypost.cli.errors import UsageError
from keypost.keystore import Passphrase


@dataclass(frozen=True)
class Asked:
    """What a passphrase is asked for.

    Attributes:
        what: The thing that it opens.
        variable: Where it may stand instead.
        hint: What to do where nobody can be asked.
    """

    what: str
    variable: str
    hint: str


PROFILE = Asked(
    "this profile", "KEYPOST_PASSPHRASE", "Set KEYPOST_PASSPHRASE, or unlock it by --key-file or --key-ring."
)
BACKUP = Asked("the backup", "KEYPOST_BACKUP_PASSPHRASE", "Set KEYPOST_BACKUP_PASSPHRASE.")


def passphrase_for(asked: Asked, *, new: bool) -> Passphrase:
    """Return the passphrase in the variable, or the one that the person types, twice for a new thing.

    Raises:
        UsageError: there is nobody to ask, or the two differ, or it is empty.
    """
    return Passphrase(os.environ.get(asked.variable) or ask_passphrase(asked, new=new))


def ask_passphrase(asked: Asked = PROFILE, *, new: bool) -> str:
    """Return the passphrase that the person types, twice for a new thing.

    Raises:
        UsageError: there is nobody to ask, or the two differ, or it is empty.
    """
    if not _somebody_is_there():
        raise UsageError(f"{asked.what} needs a passphrase, and there is no terminal to ask for it", asked.hint)
    passphrase = getpass.getpass(f"Passphrase of {asked.what}: ")
    if not passphrase:
        raise UsageError("an empty passphrase protects nothing")
    if new and not _same(getpass.getpass("Once more: "), passphrase):
        raise UsageError("the two passphrases differ")
    return passphrase


def _same(typed: str, passphrase: str) -> bool:
    return hmac.compare_digest(typed.encode("utf-8", "surrogatepass"), passphrase.encode("utf-8", "surrogatepass"))


def _somebody_is_there() -> bool:
    """Return whether a question can be answered: getpass asks the terminal itself, even when input is piped."""
    if sys.stdin.isatty():
        return True
    try:
        with Path("/dev/tty").open():
            return True
    except OSError:
        return False
