"""One unary call, with deadline, retries, and a fresh token where the old one was refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from keypost.errors import RefusedError

if TYPE_CHECKING:
    import grpc.aio

    from keypost.transport.retries import Retries
    from keypost.transport.tokens import TokenSource

Q = TypeVar("Q")
R = TypeVar("R")
TOKEN_REFUSED = "TOKEN_REFUSED"  # noqa: S105 - the name of an error
OnRefused = Callable[[], Awaitable[None]]


async def nothing_new() -> None:
    """Nothing can have changed."""


class RemoteService:
    """Calls the methods of one service.

    Args:
        service: Its name: ``ca``, ``directory`` or ``delivery``.
        retries: Deadlines and retries.
        tokens: Where tokens come from; None for anonymous calls (and for services, which show a certificate).
        endpoint: Where the service is, for errors.
        on_refused: Finds out, before one more round, whether another key is the current one by now.
    """

    def __init__(
        self,
        service: str,
        retries: Retries,
        tokens: TokenSource | None = None,
        *,
        endpoint: str = "",
        on_refused: OnRefused = nothing_new,
    ) -> None:
        self.service = service
        self.endpoint = endpoint
        self._retries = retries
        self._tokens = tokens
        self._on_refused = on_refused

    def metadata(self, *, anonymous: bool = False) -> Any:
        """Return the metadata of the next call."""
        return None if anonymous or self._tokens is None else self._tokens.metadata(self.service)

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Q, R],
        request: Q,
        *,
        anonymous: bool = False,
    ) -> R:
        """Call ``method`` and return its answer; see Retries.make for what it raises."""

        async def attempt(seconds: float) -> R:
            return await method(request, timeout=seconds, metadata=self.metadata(anonymous=anonymous))

        try:
            return await self._retries.make(attempt, self.service, self.endpoint)
        except RefusedError as refused:
            if refused.reason != TOKEN_REFUSED or self._tokens is None:
                raise
            # One fresh token, one more round.
            await self.refresh_token()
            return await self._retries.make(attempt, self.service, self.endpoint)

    async def refresh_token(self) -> None:
        """Have the next call make a fresh token.

        The cached one may come from a clock since corrected, or from a key that the CA has just replaced while its
        answer is still on its way.
        """
        if self._tokens is not None:
            self._tokens.forget()
        await self._on_refused()
