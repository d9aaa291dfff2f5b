"""The one family of errors that Keypost raises at its users.

Each error has a *reason* (an upper-case word, the same in every language and in ``docs/errors.md``) and a sentence that
says what happened and what to do. Errors never hold a key, a token, a passphrase or a plaintext.
"""

from __future__ import annotations

from typing import ClassVar


class KeypostError(Exception):
    """Base of everything that Keypost raises on purpose.

    Attributes:
        reason: The word for it, as in ``google.rpc.ErrorInfo.reason``.
        metadata: Facts for machines, such as the username concerned.
    """

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.metadata = metadata


class InvalidArgumentError(KeypostError, ValueError):
    """The caller passed something that cannot be right; ``metadata["field"]`` names it."""

    reason = "INVALID_FIELD"


class RefusedError(KeypostError):
    """A service refused a call; ``reason`` is the service's and ``retriable`` says whether waiting helps."""

    def __init__(self, reason: str, message: str, *, retriable: bool = False, **metadata: str) -> None:
        super().__init__(message, **metadata)
        self.reason = reason  # type: ignore[misc]  # one class serves every reason of the services
        self.retriable = retriable


class UnreachableError(KeypostError):
    """A service cannot be reached, did not answer in time, or the connection to it broke."""

    reason = "UNREACHABLE"
