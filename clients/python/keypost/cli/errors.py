"""Errors of the command line itself."""

from __future__ import annotations

from keypost.errors import KeypostError
from keypost.keystore.errors import KeyStoreMissingError


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


class SignInFailedError(HintedError):
    """The user could not be signed in at the issuer, or was not."""

    reason = "SIGN_IN_FAILED"


class NoProfileError(HintedError, KeyStoreMissingError):
    """There is no profile of that name, or at that place."""
