"""What takes the place of a limit that is out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost_services.ca.sign_in.guarded import GuardedSignIn
    from keypost_services.runtime.auth import Caller
    from keypost_services.runtime.limits.limiter_guarded import RefusingLimiter
    from keypost_services.runtime.limits.ports import Charge, Shortage


async def of_the_address_alone(self: GuardedSignIn, _username: str, address: str) -> Sequence[Charge]:
    """Count for the network address, and not for the username."""
    charges = self._limits.charges("sign_in_address", address)
    if (shortage := await self._limits.strict.take(charges)) is not None:
        raise self._limits.refusal(shortage, "failed sign-ins")
    return charges


async def of_the_username_alone(self: GuardedSignIn, username: str, _address: str) -> Sequence[Charge]:
    """Count for the username, and not for the network address."""
    charges = self._limits.charges("sign_in_username", username)
    if (shortage := await self._limits.strict.take(charges)) is not None:
        raise self._limits.refusal(shortage, "failed sign-ins")
    return charges


async def forget_all(self: GuardedSignIn, taken: Sequence[Charge]) -> None:
    """Give back more than there can be: as if a success wiped out every failure."""
    charges = [charge for charge in taken if charge.cost]
    for _ in range(max(charge.quota.most for charge in charges)):
        await self._limits.strict.book([_negative(charge) for charge in charges])


async def admit_uncounted(_self: RefusingLimiter, _charges: Sequence[Charge]) -> Shortage | None:
    """Let through what nobody counts."""
    return None


def _negative(charge: Charge) -> Charge:
    return type(charge)(charge.limit, charge.caller, charge.quota, -charge.cost)


async def of_users_that_exist(self: GuardedSignIn, username: str, _address: str) -> Sequence[Charge]:
    """Count for usernames whose users exist, as Alice's does."""
    charges = self._limits.charges("sign_in_username", username) if username == "alice" else []
    if (shortage := await self._limits.strict.take(charges)) is not None:
        raise self._limits.refusal(shortage, "failed sign-ins")
    return charges


def by_fingerprint(caller: Caller) -> str:
    """Name a caller by its key."""
    return "" if caller.key is None else caller.key.fingerprint.hex()


def entries_from_the_left(metadata: Sequence[tuple[str, str | bytes]]) -> list[str]:
    """Read what proxies say as if the first of them had begun it."""
    return [entry.strip() for name, line in metadata if name == "x-forwarded-for" for entry in str(line).split(",")]
