"""A channel that is replaced now and then, by one that shows renewed certificates and has asked for addresses anew."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from structlog.typing import FilteringBoundLogger

    from keypost_services.runtime.tls import FollowedFiles, TlsContent

LOOK_SECONDS = 30.0
"""How often the files are looked at."""
ADDRESSES_SECONDS = 300.0
"""How long addresses are relied upon: gRPC asks for them again only when a connection ends, within an hour."""
READY_SECONDS = 10.0
"""How long a new channel has to connect."""
GRACE_SECONDS = 2.5 * 3_600
"""How long calls of a replaced channel may take: longer than any server lets a connection live (serving.py)."""

_Method = tuple[str, str, tuple[Any, ...], tuple[tuple[str, Any], ...]]
"""Arity, name, and with what else a stub asked for a method."""


class RenewedChannel(grpc.aio.Channel):
    """A channel over whichever channel is the current one; to be run, and closed as any other.

    New calls go to the current channel; calls under way stay where they began, and what they began on is closed with
    the last of them. A new channel takes over once it is connected, so no call waits for it, and none fails for it.

    Args:
        open_channel: Opens a channel.
        followed: What a channel shows to the other end, and whom it believes.
        log: Told when a new channel does not take over.
        on_change: Called with what new calls rely on from now on.
        monotonic: The time, seconds.
        grace_seconds: How long calls of a replaced channel may take.
    """

    def __init__(
        self,
        open_channel: Callable[[grpc.ChannelCredentials], grpc.aio.Channel],
        followed: FollowedFiles,
        log: FilteringBoundLogger,
        *,
        on_change: Callable[[TlsContent], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._open_channel = open_channel
        self._followed = followed
        self._log = log
        self._on_change = on_change
        self._monotonic = monotonic
        self._grace_seconds = grace_seconds
        self._replaced: set[asyncio.Task[None]] = set()
        self._content = followed.content
        self._credentials = self._content.channel_credentials()
        self._current = self._open()
        on_change(self._content)

    async def run(self, tell: Callable[[str | None], None]) -> None:
        """Look for ever.

        Args:
            tell: Called after each look, with what :meth:`look` returns.
        """
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            tell(await self.look())

    async def look(self) -> str | None:
        """Replace the channel if the files have changed or the addresses are old; say what is wrong, if anything is."""
        await asyncio.to_thread(self._followed.look, again=True)
        content = self._followed.content
        if content is not self._content:
            return await self._replace(content)
        if self._monotonic() - self._current.since >= ADDRESSES_SECONDS:
            return await self._replace(content)
        return self._followed.refused

    async def _replace(self, content: TlsContent) -> str | None:
        # With equal credentials channels share connections: then only addresses that are new cost a handshake.
        same = content is self._content
        credentials = self._credentials if same else content.channel_credentials()
        new = _Counted(self._open_channel(credentials), self._monotonic())
        try:
            if not await self._may_take_over(new.channel, same=same):
                self._log.warning("channel not replaced", file=str(self._followed.files.certificate), renewed=not same)
                return "a new channel does not connect, the one before goes on"
            new, self._current = self._current, new
        finally:
            # Of the two the one that is not current.
            self._replaced.add(task := asyncio.create_task(self._end(new)))
            task.add_done_callback(self._replaced.discard)
        self._content, self._credentials = content, credentials
        self._on_change(content)
        return self._followed.refused

    async def _may_take_over(self, channel: grpc.aio.Channel, *, same: bool) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS):
                await channel.channel_ready()
                return True
        # Where neither connects, newer addresses are more likely to. A certificate that nobody has taken yet is not:
        # the one before may just connect anew.
        return same and self._current.channel.get_state() is not grpc.ChannelConnectivity.READY

    async def _end(self, old: _Counted) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._grace_seconds):
                    await old.idle.wait()
        finally:
            await old.channel.close()

    def _open(self) -> _Counted:
        return _Counted(self._open_channel(self._credentials), self._monotonic())

    def _stub_of(self, arity: str, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        method = (arity, name, arguments, tuple(named.items()))

        def begin(*call_arguments: Any, **call_named: Any) -> Any:
            return self._current.call(method, call_arguments, call_named)

        return begin

    def unary_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Return what a stub calls a method by, whichever channel is the current one."""
        return self._stub_of("unary_unary", method, arguments, named)

    def unary_stream(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Return what a stub calls a method by, as :meth:`unary_unary`."""
        return self._stub_of("unary_stream", method, arguments, named)

    def stream_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Return what a stub calls a method by, as :meth:`unary_unary`."""
        return self._stub_of("stream_unary", method, arguments, named)

    def stream_stream(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Return what a stub calls a method by, as :meth:`unary_unary`."""
        return self._stub_of("stream_stream", method, arguments, named)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002  # gRPC's
        """Return the state of the current channel."""
        return self._current.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state of what is the current channel now is another one."""
        await self._current.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until what is the current channel now is connected."""
        await self._current.channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Close the current channel, and those replaced at once."""
        for task in self._replaced:
            task.cancel()
        await asyncio.gather(*self._replaced, return_exceptions=True)
        await self._current.channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()


class _Counted:
    """A channel that knows how many of its calls are under way.

    Attributes:
        channel: The channel.
        since: When it was opened, seconds.
        idle: Set while no call is under way.
    """

    def __init__(self, channel: grpc.aio.Channel, since: float) -> None:
        self.channel = channel
        self.since = since
        self.idle = asyncio.Event()
        self.idle.set()
        self._under_way = 0
        self._methods: dict[_Method, Any] = {}

    def call(self, method: _Method, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Begin a call."""
        begin = self._methods.get(method)
        if begin is None:
            arity, name, others, keywords = method
            begin = self._methods[method] = getattr(self.channel, arity)(name, *others, **dict(keywords))
        call = begin(*arguments, **named)
        self._under_way += 1
        self.idle.clear()
        call.add_done_callback(self._ended)
        return call

    def _ended(self, _call: object) -> None:
        self._under_way -= 1
        if not self._under_way:
            self.idle.set()
