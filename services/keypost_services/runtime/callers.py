"""Callers whose token has been verified, and the streams that they hold open.

Both end with the key event of their key. Without one they are looked at again every minute, and when the record that
they rest on lapses: no later. And as soon as events come again, when some were missed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from cachetools import LRUCache
from grpc import StatusCode

from keypost.clock import MINUTE
from keypost_services.runtime.auth import Caller, CallerKind
from keypost_services.runtime.errors import ServiceError, shutting_down, token_refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Coroutine, Iterator

    from keypost.clock import Clock

T = TypeVar("T")
_Concerns = Callable[[str, bytes], bool]
"""Whether something concerns a key, by username and fingerprint."""
MOST_CALLERS = 50_000
CHECK_AGAIN_MS = MINUTE
SHORTEST_PAUSE_MS = 1
"""Timers may fire a little before the clock says so."""
CHECKS_PER_SECOND = 1_000
"""How many streams begin to be looked at again in a second, when all are: each may ask the directory."""


@dataclass(eq=False)
class Verification:
    """A token that is being verified; ``dropped`` says that what it rests on has changed meanwhile."""

    username: str
    fingerprint: bytes
    dropped: bool = False


@dataclass(eq=False)
class _Stream:
    caller: Caller
    end: asyncio.Future[ServiceError] = field(repr=False)
    doubted: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def finish(self, why: ServiceError) -> None:
        if not self.end.done():
            self.end.set_result(why)


class VerifiedCallers:
    """Remembers verified callers for a minute at most, and ends their streams.

    Args:
        clock: The time.
        stream_seconds: How long a stream of a caller that is no service may last.
        most: How many callers are remembered.
        check_again_ms: How long a verification may be relied upon, milliseconds.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        stream_seconds: float,
        most: int = MOST_CALLERS,
        check_again_ms: int = CHECK_AGAIN_MS,
    ) -> None:
        self._clock = clock
        self._stream_seconds = stream_seconds
        self._check_again_ms = check_again_ms
        self._callers: LRUCache[bytes, tuple[Caller, int]] = LRUCache(most)
        self._verifications: set[Verification] = set()
        self._streams: dict[str, set[_Stream]] = defaultdict(set)

    def drop_key(self, fingerprint: bytes) -> None:
        """Forget who called with this key and end the streams of its device: the key is no longer good.

        Args:
            fingerprint: 32 bytes.
        """
        self._drop(lambda _username, key: key == fingerprint)

    def drop_user(self, username: str) -> None:
        """Forget all callers of this user and end their streams: their record has changed."""
        self._drop(lambda name, _key: name == username)

    def drop_others(self, username: str, good: Collection[bytes]) -> None:
        """Forget who called with a key of this user that is none of these, and look at their streams again at once.

        The record that says so is held by then: a look ends them without asking anybody, and says what became of it.

        Args:
            username: The user.
            good: The fingerprints of the keys that the newest record shows as good, 32 bytes each.
        """

        def concerns(name: str, key: bytes) -> bool:
            return name == username and key not in good

        self._forget(concerns)
        for stream in self._streams_of(concerns):
            stream.doubted.set()

    def has_streams_of(self, username: str) -> bool:
        """Return whether a device of this user holds a stream open."""
        return username in self._streams

    def drop_all(self) -> None:
        """Forget all callers and end all streams of devices: any record may have changed."""
        self._drop(lambda _username, _key: True)

    def doubt_all(self) -> None:
        """Forget all callers and look at all streams of devices again: any record may have changed.

        Unlike after :meth:`drop_all`, whose key is still good notices nothing.
        """
        self._forget(lambda _username, _key: True)
        loop = asyncio.get_running_loop()
        for place, stream in enumerate(self._streams_of(lambda _username, _key: True)):
            loop.call_later(place / CHECKS_PER_SECOND, stream.doubted.set)

    def find(self, token_hash: bytes) -> Caller | None:
        """Return the caller that showed the token with this SHA-256 not long ago."""
        caller, until = self._callers.get(token_hash, (None, 0))
        return caller if self._clock() < until else None

    def remember(self, token_hash: bytes, caller: Caller) -> None:
        """Remember a verified caller."""
        self._callers[token_hash] = caller, _until(caller, self._clock() + self._check_again_ms)

    @contextlib.contextmanager
    def verification(self, username: str, fingerprint: bytes) -> Iterator[Verification]:
        """Notice a drop that happens while a token is being verified."""
        verification = Verification(username, fingerprint)
        self._verifications.add(verification)
        try:
            yield verification
        finally:
            self._verifications.discard(verification)

    def end_streams(self) -> None:
        """End all streams because the service shuts down."""
        for stream in [stream for streams in self._streams.values() for stream in streams]:
            stream.finish(shutting_down())

    async def run_stream(
        self, caller: Caller, handler: Coroutine[object, object, T], check: Callable[[Caller], Awaitable[int | None]]
    ) -> T:
        """Run the handler of a stream until it is done or must end.

        Args:
            caller: Whose stream it is.
            handler: What serves it; cancelled when the stream must end.
            check: Raises when the caller may go on no longer, and returns until when that may be relied upon (Unix
                milliseconds; None: without end); asked at once, then, every minute, and when in doubt.

        Raises:
            ServiceError: why the stream must end.
        """
        stream = _Stream(caller, asyncio.get_running_loop().create_future())
        # A key event that came between admission and here has found no stream to end.
        stream.doubted.set()
        username = caller.address.username if caller.address else ""
        self._streams[username].add(stream)
        task = asyncio.ensure_future(handler)
        watch = asyncio.ensure_future(self._watch(stream, check))
        try:
            # The end counts at once, even while the caller is being looked at again.
            ways: set[asyncio.Future[Any]] = {task, watch, stream.end}
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise stream.end.result() if stream.end.done() else watch.result()
            return task.result()
        finally:
            self._streams[username].discard(stream)
            if not self._streams[username]:
                del self._streams[username]
            await _cancel(task, watch)

    async def _watch(self, stream: _Stream, check: Callable[[Caller], Awaitable[int | None]]) -> ServiceError:
        """Return why the stream must end, when its caller may go on no longer or its time is over."""
        loop = asyncio.get_running_loop()
        endless = stream.caller.kind is CallerKind.SERVICE
        deadline = None if endless else loop.time() + self._stream_seconds
        until: int | None = None
        while deadline is None or loop.time() < deadline:
            pause = self._pause(until)
            if deadline is not None:
                pause = min(pause, deadline - loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await stream.doubted.wait()
            # Before the check: a doubt that comes meanwhile has it made once more.
            stream.doubted.clear()
            try:
                until = await check(stream.caller)
            except ServiceError as error:
                return error
        return ServiceError(
            StatusCode.UNAVAILABLE, "STREAM_EXPIRED", "a stream lasts an hour at most: open another", retry_after_ms=0
        )

    def _pause(self, until: int | None) -> float:
        """Return after how many seconds a stream is looked at again that was found good until then."""
        pause_ms = self._check_again_ms if until is None else min(self._check_again_ms, until - self._clock())
        return max(SHORTEST_PAUSE_MS, pause_ms) / 1000

    def _drop(self, concerns: _Concerns) -> None:
        self._forget(concerns)
        for stream in self._streams_of(concerns):
            stream.finish(token_refused("KEY_CHANGED"))

    def _forget(self, concerns: _Concerns) -> None:
        for token_hash in [name for name, (caller, _) in self._callers.items() if _hits(concerns, caller)]:
            del self._callers[token_hash]
        for verification in self._verifications:
            verification.dropped |= concerns(verification.username, verification.fingerprint)

    def _streams_of(self, concerns: _Concerns) -> list[_Stream]:
        return [stream for streams in self._streams.values() for stream in streams if _hits(concerns, stream.caller)]


def _hits(concerns: _Concerns, caller: Caller) -> bool:
    if caller.address is None or caller.key is None:
        return False
    return concerns(caller.address.username, caller.key.fingerprint)


def _until(caller: Caller, again: int) -> int:
    """Return until when a caller is remembered: no longer than its token, its key and its record are good."""
    return again if caller.expire_time is None else min(again, caller.expire_time)


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
