"""Sign-in by one-time code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost_services.ca.codes import hash_code
from keypost_services.ca.sign_in.port import Grant, Proof, SignInRefusedError
from keypost_services.ca.store import ENDED

if TYPE_CHECKING:
    from keypost.clock import Clock
    from keypost_services.ca.store import OneTimeCode, Store


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

    async def admit(self, username: str, proof: Proof, fingerprint: bytes | None) -> Grant:
        """Admit a code of this user that is unused and unexpired, or the repetition of its use."""
        del fingerprint  # a code is bound to the user alone, and used up by the first key
        if proof.code is None:
            raise SignInRefusedError("NO_CODE")
        code = await self._store.find_code(hash_code(proof.code, username, self._realm))
        if code is None or code.username != username:
            raise SignInRefusedError("UNKNOWN_CODE")
        _check_unexpired(code, self._clock())
        return Grant(code.code_hash, code.used_fingerprint)


def _check_unexpired(code: OneTimeCode, now: int) -> None:
    # Its use may be repeated later: the answer may have been lost.
    if not code.used_fingerprint and now >= code.expire_time:
        raise SignInRefusedError("ENDED" if code.expire_time == ENDED else "EXPIRED")
