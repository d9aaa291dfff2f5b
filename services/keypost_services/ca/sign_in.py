"""Sign-in: who may enrol a device for a username."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from keypost_services.ca import errors
from keypost_services.ca.codes import hash_code

if TYPE_CHECKING:
    from keypost.clock import Clock
    from keypost_services.ca.store import OneTimeCode, Store


_SHOWN_DIGITS = 16


@dataclass(frozen=True)
class Proof:
    """What a caller shows.

    Attributes:
        code: A one-time code in its one form (see ``codes.read_code``), or None for open sign-in.
    """

    code: str | None = field(repr=False)


@dataclass(frozen=True)
class Grant:
    """An accepted sign-in.

    Attributes:
        code_hash: The one-time code to be used up by success, None where there is none.
        used_fingerprint: The key that the code was used up for before: only that enrolment may be repeated.
    """

    code_hash: bytes | None = field(default=None, repr=False)
    used_fingerprint: bytes = b""

    @property
    def kind(self) -> str:
        """How the audit log names the sign-in: ``open``, or ``code`` and the beginning of the code's hash."""
        return "open" if self.code_hash is None else f"code {self.code_hash.hex()[:_SHOWN_DIGITS]}"


class SignIn(Protocol):
    """Decides whether a caller may act as a user."""

    async def admit(self, username: str, proof: Proof) -> Grant:
        """Accept a proof, without using it up.

        Raises:
            ServiceError: SIGN_IN_REFUSED.
        """
        ...


class CodeSignIn:
    """Admits by one-time codes."""

    def __init__(self, store: Store, realm: bytes, clock: Clock) -> None:
        """Take the store of the codes.

        Args:
            store: Where the codes are.
            realm: What the codes are bound to (``codes.realm_hash``).
            clock: Tells the time.
        """
        self._store = store
        self._realm = realm
        self._clock = clock

    async def admit(self, username: str, proof: Proof) -> Grant:
        """Admit a code of this user that is unused and unexpired, or the repetition of its use."""
        if proof.code is None:
            raise errors.sign_in_refused()
        code = await self._store.find_code(hash_code(proof.code, username, self._realm))
        if code is None or code.username != username:
            raise errors.sign_in_refused()
        _check_unexpired(code, self._clock())
        return Grant(code.code_hash, code.used_fingerprint)


def _check_unexpired(code: OneTimeCode, now: int) -> None:
    # Its use may be repeated later: the answer may have been lost.
    if not code.used_fingerprint and now >= code.expire_time:
        raise errors.sign_in_refused()


class OpenSignIn:
    """Admits everybody who asks for it: for development alone."""

    async def admit(self, username: str, proof: Proof) -> Grant:
        """Admit a caller without proof; a code means that the caller expects another CA."""
        del username
        if proof.code is not None:
            raise errors.sign_in_refused()
        return Grant()
