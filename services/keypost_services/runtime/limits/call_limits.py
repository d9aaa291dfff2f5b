"""Holds every call against its limits, before the work is done, and counts what came of it."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache, TTLCache

from keypost.clock import HOUR, MINUTE, SECOND
from keypost_services.runtime.auth import CallerKind
from keypost_services.runtime.buckets import peer_address
from keypost_services.runtime.errors import ServiceError, method_not_admitted, rate_limited
from keypost_services.runtime.limits.batches import BatchCharges, set_batch_charges
from keypost_services.runtime.limits.ports import Charge, Charges
from keypost_services.runtime.limits.table import LOOK_UPS, QUOTAS, UNKNOWN_USERS
from keypost_services.runtime.requests import MOST_USERNAMES, USER_NOT_FOUND

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from keypost.clock import Clock
    from keypost_services.runtime.auth import Caller
    from keypost_services.runtime.limits.metrics import LimitMetrics
    from keypost_services.runtime.limits.ports import Limiter, Shortage
    from keypost_services.runtime.limits.table import MethodLimits, Quotas

MOST_REMEMBERED = 50_000
MOST_CHARGES = 10_000
SAME_AGAIN_MS = HOUR
"""A device that asks for the same unknown user again within this time is not counted again: it guesses nothing new."""
WHAT = {
    LOOK_UPS: "users looked up",
    UNKNOWN_USERS: "users asked for who do not exist",
}

_unknown: ContextVar[list[str]] = ContextVar("keypost_unknown_users")


def note_unknown_users(usernames: Iterable[str]) -> None:
    """Say that the call being handled asked for users that do not exist, where its answer is no error."""
    with contextlib.suppress(LookupError):
        _unknown.get().extend(usernames)


class Limits:
    """The limits of a service: its two limiters, and how much there is of everything.

    Args:
        lenient: Counts in this process while the shared one is away.
        strict: Refuses meanwhile.
        metrics: Counts refusals.
        changed: What the service's settings say, by name.
    """

    def __init__(
        self, *, lenient: Limiter, strict: Limiter, metrics: LimitMetrics, changed: Mapping[str, Quotas]
    ) -> None:
        self.lenient = lenient
        self.strict = strict
        self._metrics = metrics
        self._quotas = {**QUOTAS, **changed}

    def charges(self, limit: str, caller: str, cost: int = 1, *, scope: str = "") -> list[Charge]:
        """Return what a call takes of a limit.

        Args:
            limit: Its name.
            caller: Whose.
            cost: How many.
            scope: What tells limits of one name apart, such as the method.
        """
        return [Charge(limit, f"{scope} {caller}", quota, cost) for quota in self._quotas[limit]]

    def slow(self, limit: str) -> None:
        """Count a pause that a stream has to make."""
        self._metrics.slowed.labels(limit).inc()

    def refusal(self, shortage: Shortage, what: str) -> ServiceError:
        """Count a refusal and return it: RESOURCE_EXHAUSTED with RATE_LIMITED."""
        self._metrics.refused.labels(shortage.limit).inc()
        return rate_limited(f"{what}: try again in {_wait(shortage.retry_after_ms)}", shortage.retry_after_ms)


class CallLimits:
    """Applies the table of limits.

    Args:
        limits: The service's limits.
        methods: Which of them hold for each method.
        clock: The time.
    """

    def __init__(self, limits: Limits, methods: Mapping[str, MethodLimits], clock: Clock) -> None:
        self._limits = limits
        self._methods = methods
        self._charged: LRUCache[tuple[str, str, int], Sequence[Charge]] = LRUCache(MOST_CHARGES)
        self._known_unknown: TTLCache[tuple[str, str], bool] = TTLCache(MOST_REMEMBERED, SAME_AGAIN_MS, timer=clock)

    async def admit(self, method: str, caller: Caller, request: Any) -> None:
        """Take what a call costs.

        Args:
            method: The method.
            caller: Who calls.
            request: The request; None: there is none yet, or none that parses.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED with RATE_LIMITED; UNAVAILABLE with LIMITS_UNAVAILABLE; PERMISSION_DENIED
                with METHOD_NOT_ADMITTED: the table has no row for the method.
        """
        row = self._methods.get(method)
        if row is None:
            raise method_not_admitted()
        charges = self._charges(row, method, caller, request)
        if not charges:
            return
        limiter = self._limits.strict if row.strict else self._limits.lenient
        if limiter.spend(charges):
            return
        if (shortage := await limiter.take(charges)) is not None:
            what = WHAT.get(shortage.limit, f"calls of {method.rpartition('/')[2]}")
            raise self._limits.refusal(shortage, what)

    def counting(self, method: str, caller: Caller) -> AbstractAsyncContextManager[None]:
        """Count the users that do not exist and that the call in the block asks for, whether it answers or refuses."""
        row = self._methods.get(method)
        if row is None or UNKNOWN_USERS not in row.limits.get(caller.kind, ()):
            return contextlib.nullcontext()
        if row.batches:
            set_batch_charges(self._batches(row, caller))
        return _Counting(caller, self._book)

    def _batches(self, row: MethodLimits, caller: Caller) -> BatchCharges:
        name, (_, _, limit) = _name(caller), row.batches.rpartition("/")

        def charges(number: int) -> list[Charge]:
            items = self._limits.charges(limit, name, max(1, number), scope=row.batches)
            return items + self._limits.charges(UNKNOWN_USERS, name, 0)

        return BatchCharges(
            self._limits.strict if row.strict else self._limits.lenient,
            charges,
            lambda shortage: self._limits.refusal(shortage, WHAT[shortage.limit]),
            lambda usernames: self._book(caller, usernames),
            lambda: self._limits.slow(limit),
        )

    async def _book(self, caller: Caller, usernames: Collection[str]) -> None:
        name = _name(caller)
        new = {username for username in usernames if (name, username) not in self._known_unknown}
        if new:
            self._known_unknown.update({(name, username): True for username in new})
            await self._limits.lenient.book(self._limits.charges(UNKNOWN_USERS, name, len(new)))

    def _charges(self, row: MethodLimits, method: str, caller: Caller, request: Any) -> Sequence[Charge]:
        """Return what a call takes. Most are of callers who called before: for those it is remembered."""
        limits, name = row.limits.get(caller.kind, ()), _name(caller)
        users = _users(request) if LOOK_UPS in limits else 1
        charges = self._charged.get((method, name, users))
        if charges is None:
            charges = Charges(charge for limit in limits for charge in self._of(limit, method, name, users))
            self._charged[method, name, users] = charges
        return charges

    def _of(self, limit: str, method: str, name: str, users: int) -> list[Charge]:
        if limit == UNKNOWN_USERS:
            return self._limits.charges(limit, name, 0)
        if limit == LOOK_UPS:
            return self._limits.charges(limit, name, users)
        return self._limits.charges(limit, name, scope=method)


class _Counting:
    """Has the users counted that a call asks for and that do not exist. A generator would cost twice as much."""

    __slots__ = ("_book", "_caller", "_found")

    def __init__(self, caller: Caller, book: Callable[[Caller, Collection[str]], Awaitable[None]]) -> None:
        self._caller = caller
        self._book = book
        self._found: list[str] = []

    async def __aenter__(self) -> None:
        _unknown.set(self._found)

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ServiceError) and error.reason == USER_NOT_FOUND:
            self._found.append(error.metadata["username"])
        if self._found:
            await self._book(self._caller, self._found)


def _name(caller: Caller) -> str:
    """Return whose quotas a call takes from: a device's, a network address's, a service's or an administrator's."""
    if caller.kind is CallerKind.ANYONE:
        return peer_address(caller.peer)
    return f"{caller.kind.value} {caller.name}"


def _wait(milliseconds: int) -> str:
    """Return a time to wait, for people: rounded up."""
    unit, size = ("min", MINUTE) if milliseconds > 2 * MINUTE else ("s", SECOND)
    return f"{-(-milliseconds // size)} {unit}"


def _users(request: Any) -> int:
    """Return how many users a request asks for; of too many, as many as are allowed, since it is refused."""
    return max(1, min(len(getattr(request, "usernames", ())), MOST_USERNAMES))
