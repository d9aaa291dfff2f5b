"""One unary call, with deadline, retries, and a fresh token where the old one was refused."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

from keypost.errors import KeypostError, RefusedError
from keypost.tracing import Traces
from keypost.transport.refusals import REQUEST_ID, REQUEST_ID_HEADER

if TYPE_CHECKING:
    import grpc.aio

    from keypost.transport.retries import Attempt, Retries
    from keypost.transport.tokens import TokenSource

Q = TypeVar("Q", bound=Message)
R = TypeVar("R")
TOKEN_REFUSED = "TOKEN_REFUSED"  # noqa: S105 - the name of an error
OnRefused = Callable[[], Awaitable[None]]


async def nothing_new() -> None:
    """Nothing can have changed."""


def draw_request_id() -> str:
    """Return 16 random hexadecimal digits."""
    return secrets.token_hex(8)


class RemoteService:
    """Calls the methods of one service.

    Args:
        service: Its name: ``ca``, ``directory`` or ``delivery``.
        retries: Deadlines and retries.
        tokens: Where tokens come from; None for anonymous calls (and for services, which show a certificate).
        endpoint: Where the service is, for errors.
        on_refused: Finds out, before one more round, whether another key is the current one by now.
        traces: Records calls.
        request_ids: Names calls; by its name a service's log has what became of one.
    """

    def __init__(
        self,
        service: str,
        retries: Retries,
        tokens: TokenSource | None = None,
        *,
        endpoint: str = "",
        on_refused: OnRefused = nothing_new,
        traces: Traces | None = None,
        request_ids: Callable[[], str] = draw_request_id,
    ) -> None:
        self._traces = traces or Traces()
        self._request_ids = request_ids
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
        request_id = self._request_ids()

        async def attempt(seconds: float) -> R:
            with self._traces.call(request) as headers:
                metadata = (*(self.metadata(anonymous=anonymous) or ()), (REQUEST_ID_HEADER, request_id), *headers)
                return await method(request, timeout=seconds, metadata=metadata)

        try:
            return await self._call(attempt)
        except KeypostError as error:
            error.metadata.setdefault(REQUEST_ID, request_id)
            raise

    async def _call(self, attempt: Attempt[R]) -> R:
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
