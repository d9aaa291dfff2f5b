"""How many calls may be under way: altogether, as streams, and for one caller.

A stream may last an hour, so streams never take all there is, and no caller takes more than half: whatever one of them
does, the others' short calls get through. Services among themselves are counted altogether alone.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from keypost_services.runtime.auth import Caller, CallerKind
from keypost_services.runtime.buckets import peer_address
from keypost_services.runtime.errors import rate_limited

if TYPE_CHECKING:
    from collections.abc import Callable

STREAM_SHARE = 0.8
RETRY_AFTER_MS = 1_000


class _Counted:
    """Something that was counted and that ends. Every call has two: a generator would cost it twice as much."""

    __slots__ = ("_arguments", "_end")

    def __init__(self, end: Callable[..., None], *arguments: object) -> None:
        self._end = end
        self._arguments = arguments

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._end(*self._arguments)


def _nothing() -> None:
    """End what was not counted."""


class CallsUnderWay:
    """Counts calls and refuses what is too much.

    Args:
        most: How many there may be.
        most_per_caller: How many one device, one administrator, or one network address of callers unknown, may have.
    """

    def __init__(self, most: int, most_per_caller: int) -> None:
        self._most = most
        self._most_streams = max(1, int(most * STREAM_SHARE))
        self._most_per_caller = max(1, min(most_per_caller, most // 2))
        self._count = 0
        self._streams = 0
        self._by_caller: Counter[str] = Counter()

    def any_call(self) -> _Counted:
        """Count a call, before it is known whose it is, until what is returned is left.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED with RATE_LIMITED.
        """
        if self._count >= self._most:
            raise rate_limited("calls under way", RETRY_AFTER_MS)
        self._count += 1
        return _Counted(self._end_any)

    def call_of(self, caller: Caller, *, streaming: bool) -> _Counted:
        """Count a call for its caller until what is returned is left.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED with RATE_LIMITED.
        """
        if caller.kind is CallerKind.SERVICE:
            return _Counted(_nothing)
        name = _name_of(caller)
        self._check_share(name)
        if streaming and self._streams >= self._most_streams:
            raise rate_limited("streams under way", RETRY_AFTER_MS)
        self._by_caller[name] += 1
        self._streams += streaming
        return _Counted(self._end_of, name, streaming)

    def _end_any(self) -> None:
        self._count -= 1

    def _end_of(self, name: str, streaming: bool) -> None:  # noqa: FBT001  # passed on by _Counted
        self._streams -= streaming
        self._by_caller[name] -= 1
        if not self._by_caller[name]:
            del self._by_caller[name]

    def _check_share(self, name: str) -> None:
        if self._by_caller[name] >= self._most_per_caller:
            raise rate_limited("calls of this caller under way", RETRY_AFTER_MS)


def _name_of(caller: Caller) -> str:
    if caller.kind is CallerKind.ADMINISTRATOR:
        return f"administrator {caller.name}"
    return caller.name if caller.address else peer_address(caller.peer)
