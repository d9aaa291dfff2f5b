"""What a limiter is, whether it counts in Redis or in this process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from keypost.protocol.encoding import pae, sha256

if TYPE_CHECKING:
    from collections.abc import Sequence

_BUCKET_BYTES = 16
_MICROSECONDS = 1_000


@dataclass(frozen=True)
class Quota:
    """So many at once, and as many again in each period, evenly.

    Attributes:
        most: How many may be taken at once; not more than the period has microseconds.
        period: Milliseconds.
    """

    most: int
    period: int

    @property
    def interval(self) -> int:
        """After how many microseconds one comes back; rounded up, so that never more come back than are allowed."""
        return -(-self.period * _MICROSECONDS // self.most)


@dataclass(frozen=True)
class Charge:
    """What one call takes of one quota.

    Attributes:
        limit: The name of the limit.
        caller: Whose quota it is; any text.
        quota: How much there is.
        cost: How many are taken. 0: one must be left, and stays. More than the quota has: only a full one will do, and
            the rest is owed.
    """

    limit: str
    caller: str
    quota: Quota
    cost: int = 1

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Charges are what leases are known by, call after call.
        return hash((self.limit, self.caller, self.quota, self.cost))

    @cached_property
    def bucket(self) -> str:
        """The name under which this is counted: 32 hexadecimal digits, whatever the caller is called."""
        quota = f"{self.quota.most}/{self.quota.period}"
        return sha256(pae(self.limit.encode(), self.caller.encode(), quota.encode()))[:_BUCKET_BYTES].hex()


class Charges(tuple[Charge, ...]):  # noqa: SLOT001  # its hash is kept in its dictionary
    """What a call takes, as a key that is looked up again and again: its hash is made once."""

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()


@dataclass(frozen=True)
class Shortage:
    """There is not enough left.

    Attributes:
        limit: The name of the limit that lacks most.
        retry_after_ms: When there will be enough, if nobody takes more, milliseconds.
    """

    limit: str
    retry_after_ms: int


class LimitsAwayError(Exception):
    """Who counts cannot be reached, or did not answer in time."""


class Limiter(Protocol):
    """Counts what callers take."""

    def spend(self, charges: Sequence[Charge]) -> bool:
        """Take all of this out of what was taken ahead; return whether it was there. If not, ``take`` it."""
        ...

    async def take(self, charges: Sequence[Charge]) -> Shortage | None:
        """Take all of this, or nothing if one of the quotas has too little left.

        Raises:
            LimitsAwayError: nobody knows.
        """
        ...

    async def book(self, charges: Sequence[Charge]) -> None:
        """Take all of this even where it is not there: what is owed, a full quota at most, is waited for.

        A negative cost gives back.

        Raises:
            LimitsAwayError: it is not counted.
        """
        ...
