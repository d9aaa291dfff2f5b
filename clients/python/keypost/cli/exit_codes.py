"""What the exit code tells a script, and what a person can do about an error.

====  ==========================================================================
code  meaning
====  ==========================================================================
0     done
1     failed otherwise
2     wrong usage: an option, an argument or the passphrase is missing or wrong
3     a service cannot be reached, or does not answer in time
4     a service refused
5     a key, a record or an identity is not as it must be; nothing was sent
6     the local key store cannot be used
130   interrupted by Ctrl-C
====  ==========================================================================
"""

from __future__ import annotations

from enum import IntEnum

from keypost.errors import InvalidArgumentError, KeypostError, RefusedError, UnreachableError
from keypost.keystore.errors import KeyStoreMissingError


class ExitCode(IntEnum):
    """The exit codes of ``keypost``."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    KEYS = 5
    STORE = 6
    INTERRUPTED = 130


class HintedError(KeypostError):
    """An error of the command line itself, which knows best what to do about it."""

    def __init__(self, message: str, hint: str | None = None, **metadata: str) -> None:
        super().__init__(message, **metadata)
        self.hint = hint


class UsageError(HintedError):
    """Something on the command line is missing or contradicts itself."""

    reason = "USAGE"


class FileError(HintedError):
    """A file that was named cannot be read or written."""

    reason = "FILE"


class NoProfileError(HintedError, KeyStoreMissingError):
    """There is no profile of that name, or at that place."""


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

HINTS = {
    "UNREACHABLE": "Start the services (for a first look: make up), or give the bundle that names them by --bundle.",
    "USER_NOT_FOUND": "Check the spelling; the user must have enrolled a device.",
    "SIGN_IN_REFUSED": "A code is good once, for one user, for a while; ask your administrator for a new one "
    "(`keypost-ca code USERNAME`) and give it by --code.",
    "APPROVAL_REQUIRED": "This user has a device already; another username, or a profile of that device, is needed.",
    "SUITE_NOT_ALLOWED": "The realm does not allow this suite; leave --suite out for the default.",
    "SUITE_REFUSED": "Lower --minimum-suite only if you know why: what is below it is broken in practice.",
    "IDENTITY_CHANGED": "Compare the new fingerprint with the other person in another way; "
    "then: keypost accept {username} {root}",
    "DEVICE_KEY_STOLEN": "Somebody else renewed this device's key: tell your administrator, and use another device.",
    "CLOCK_AHEAD": "Check the clock of this machine.",
    "CLOCK_WRONG": "Set the clock of this machine.",
    "RECORD_EXPIRED": "Check the clock of this machine.",
    "MAILBOX_FULL": "The recipient has to read first; try again later.",
    "SENDER_SHARE_FULL": "The recipient has to read first; try again later.",
    "WRONG_PASSPHRASE": "Try again, with the passphrase, --key-file or --key-ring that this profile was made with.",
    "KEY_RING_UNAVAILABLE": "A new profile can do without: with a passphrase, or with --key-file.",
    "NOT_ENROLLED": "Enroll first: keypost --profile NAME --bundle FILE enroll USERNAME",
    "KEY_STORE_LOCKED": "End the other command that uses this profile, or wait for it.",
}


def exit_code_of(error: KeypostError) -> ExitCode:
    """Return the exit code for ``error``: by its type, else by the part of the SDK that raised it."""
    for error_type, code in BY_TYPE:
        if isinstance(error, error_type):
            return code
    for package, code in BY_PACKAGE:
        if any(base.__module__.startswith(package) for base in type(error).__mro__):
            return code
    return ExitCode.FAILED


def hint_for(error: KeypostError) -> str | None:
    """Return what a person can do about ``error``, if there is something to say."""
    if isinstance(error, HintedError):
        return error.hint
    hint = HINTS.get(error.reason)
    if hint is None:
        return None
    try:
        return hint.format_map(error.metadata)
    except KeyError:  # this error does not say so much
        return hint.partition(";")[0]
