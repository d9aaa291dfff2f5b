"""What the exit code tells a script."""

from __future__ import annotations

from enum import IntEnum
from typing import Self

from keypost.cli.errors import FileError, UsageError
from keypost.errors import InvalidArgumentError, KeypostError, RefusedError, UnreachableError


class ExitCode(IntEnum):
    """The exit codes of ``keypost``; each has a ``meaning``."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        """Return the member that is ``code`` and knows what it means."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    OK = 0, "done"
    FAILED = 1, "failed otherwise"
    USAGE = 2, "wrong usage: an option, an argument or the bundle is missing or wrong"
    UNREACHABLE = 3, "a service does not answer"
    REFUSED = 4, "a service refused"
    KEYS = 5, "a key, a record or an identity is not as it must be; nothing was sent"
    STORE = 6, "the profile cannot be opened"
    INTERRUPTED = 130, "interrupted by Ctrl-C"


BY_TYPE: tuple[tuple[type[KeypostError], ExitCode], ...] = (
    (UsageError, ExitCode.USAGE),
    (InvalidArgumentError, ExitCode.USAGE),
    (FileError, ExitCode.FAILED),
    (UnreachableError, ExitCode.UNREACHABLE),
    (RefusedError, ExitCode.REFUSED),
)
BY_PACKAGE = (
    ("keypost.keystore", ExitCode.STORE),
    ("keypost.protocol", ExitCode.KEYS),
    ("keypost.client", ExitCode.KEYS),
)


def exit_code_of(error: KeypostError) -> ExitCode:
    """Return the exit code for ``error``: by its type, else by the part of the SDK that raised it."""
    for error_type, code in BY_TYPE:
        if isinstance(error, error_type):
            return code
    for package, code in BY_PACKAGE:
        if any(base.__module__.startswith(package) for base in type(error).__mro__):
            return code
    return ExitCode.FAILED


def list_of_codes() -> str:
    """Return every code with its meaning, one a line, as the help shows them."""
    return "\n".join(f"  {code.value:>3}  {code.meaning}" for code in ExitCode)
