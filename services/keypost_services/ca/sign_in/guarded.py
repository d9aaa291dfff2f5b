"""A sign-in that cannot be guessed at: what fails counts against the address and the username, and the waits grow.

What is tried is counted before it is looked at, and given back unless it fails: those who try many at once get no more
than those who try one after the other. A success gives back only what it took itself, so nobody wipes out what failed
before by signing in as somebody else. Names count whether their users exist or not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from keypost_services.ca.sign_in.port import SignInRefusedError
from keypost_services.runtime.auth import current_caller
from keypost_services.runtime.buckets import peer_address
from keypost_services.runtime.limits.table import SIGN_IN_ADDRESS, SIGN_IN_RESERVE, SIGN_IN_USERNAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keypost_services.ca.sign_in.port import Grant, Kind, Proof, SignIn
    from keypost_services.runtime.limits.call_limits import Limits
    from keypost_services.runtime.limits.ports import Charge


class GuardedSignIn:
    """A SignIn over another one."""

    def __init__(self, sign_in: SignIn, limits: Limits) -> None:
        """Take what decides and what counts.

        Args:
            sign_in: Decides who may act as a user.
            limits: How often it may be asked. While nobody counts it is not asked at all.
        """
        self._sign_in = sign_in
        self._limits = limits

    async def admit(self, username: str, proof: Proof, fingerprint: bytes | None) -> Grant:
        """Accept a proof, without using it up.

        Raises:
            SignInRefusedError: It is not accepted.
            SourceAwayError: It cannot be judged now.
            ServiceError: RATE_LIMITED; LIMITS_UNAVAILABLE.
        """
        taken = await self._take(username, peer_address(current_caller().peer))
        try:
            grant = await self._sign_in.admit(username, proof, fingerprint)
        except SignInRefusedError:
            raise
        except BaseException:
            # Also when the call is cancelled: whoever hung up has learnt nothing, and a slow issuer keeps nobody out.
            await self._give_back(taken)
            raise
        await self._give_back(taken)
        return grant

    async def _take(self, username: str, address: str) -> Sequence[Charge]:
        of_address = self._limits.charges(SIGN_IN_ADDRESS, address)
        charges = of_address + self._limits.charges(SIGN_IN_USERNAME, username)
        shortage = await self._limits.strict.take(charges)
        if shortage is not None and shortage.limit == SIGN_IN_USERNAME:
            # Others have used up what the username has: they must not keep its user out, who comes from elsewhere.
            charges = of_address + self._limits.charges(SIGN_IN_RESERVE, f"{username} {address}")
            if await self._limits.strict.take(charges) is None:
                return charges
        if shortage is not None:
            raise self._limits.refusal(shortage, "failed sign-ins")
        return charges

    async def _give_back(self, taken: Sequence[Charge]) -> None:
        await self._limits.strict.book([replace(charge, cost=-charge.cost) for charge in taken])


def guarded(kinds: Mapping[Kind, SignIn], limits: Limits) -> Mapping[Kind, SignIn]:
    """Return these kinds of sign-in, each guarded; what fails counts together, whatever its kind."""
    return {kind: GuardedSignIn(sign_in, limits) for kind, sign_in in kinds.items()}
