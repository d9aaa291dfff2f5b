"""Everything that happens to a call around its servicer: admission, limits, log, metrics, errors."""

from __future__ import annotations

import asyncio
import functools
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from grpc import StatusCode

from keypost_services.runtime.auth import Call, set_current_call
from keypost_services.runtime.authenticator import Peer
from keypost_services.runtime.errors import ServiceError, shutting_down
from keypost_services.runtime.handlers import Handler, Invoke, refusing, wrap
from keypost_services.runtime.logs import set_facts
from keypost_services.runtime.refusals import ErrorCodes, Refusal, internal, refusal_of
from keypost_services.runtime.tracing import NO_TRACE, CallTrace, end_call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from keypost_services.runtime.auth import Caller
    from keypost_services.runtime.authenticator import Authenticator
    from keypost_services.runtime.call_log import CallLog
    from keypost_services.runtime.callers import VerifiedCallers
    from keypost_services.runtime.calls_under_way import CallsUnderWay
    from keypost_services.runtime.limits.call_limits import CallLimits
    from keypost_services.runtime.metrics import CallMetrics
    from keypost_services.runtime.proxies import TrustedProxies
    from keypost_services.runtime.tracing import ServiceTraces

REQUEST_ID = "x-request-id"
UNLISTED = "unlisted"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass
class _Outcome:
    code: str = "OK"
    reason: str = ""
    trace: CallTrace = NO_TRACE


@dataclass(frozen=True)
class Bounds:
    """What bounds calls.

    Attributes:
        under_way: How many calls may be under way.
        limits: How often each caller may call.
        unary_seconds: How long a unary call may take.
        proxies: Tell where a call comes from, which is what callers unknown are counted by.
    """

    under_way: CallsUnderWay
    limits: CallLimits
    unary_seconds: float
    proxies: TrustedProxies


class Calls(grpc.aio.ServerInterceptor):
    """Runs every call of a server.

    Args:
        authenticator: Admits callers.
        callers: Ends streams.
        error_codes: Which errors callers may know.
        metrics: Counts.
        log: Told how every call has ended.
        ids: Draws ids of requests and errors.
        bounds: How many calls there may be, and how long they may take.
        traces: Records calls.
    """

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        callers: VerifiedCallers,
        error_codes: ErrorCodes,
        metrics: CallMetrics,
        log: CallLog,
        ids: Callable[[], str],
        bounds: Bounds,
        traces: ServiceTraces,
    ) -> None:
        self._authenticator = authenticator
        self._callers = callers
        self._error_codes = error_codes
        self._metrics = metrics
        self._log = log
        self._ids = ids
        self._bounds = bounds
        self._traces = traces
        self._handlers: dict[str, Handler] = {}
        self._under_way: set[asyncio.Task[Any]] = set()
        self._draining = False

    def drain(self) -> None:
        """Refuse new calls from now on and end the streams; unary calls under way go on."""
        self._draining = True
        self._callers.end_streams()

    async def settled(self, timeout_seconds: float) -> None:
        """Wait until the servicers of all calls have ended, at most ``timeout_seconds``."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=timeout_seconds)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler]], handler_call_details: Any
    ) -> Handler:
        """Return the handler of a method with everything around it; for an unlisted one, a refusal."""
        method = handler_call_details.method
        if method in self._handlers:
            return self._handlers[method]
        handler = await continuation(handler_call_details)
        if handler is None or not self._authenticator.knows(method):
            return refusing(self._runner(UNLISTED))
        self._handlers[method] = wrap(handler, self._runner(method))
        return self._handlers[method]

    def _runner(self, method: str) -> Any:
        return functools.partial(self._run, method)

    async def _run(self, method: str, context: Any, invoke: Invoke, *, streaming: bool) -> bytes | None:
        task, started, outcome = asyncio.current_task(), time.perf_counter(), _Outcome()
        assert task is not None  # noqa: S101  # for the type checker: grpc.aio gives each call a task
        metadata = context.invocation_metadata()
        request_id = self._request_id(metadata)
        facts = {"request_id": request_id}
        set_facts(facts)
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        self._under_way.add(task)
        self._metrics.begin(method)
        try:
            peer = Peer.of(context, metadata, self._bounds.proxies)
            facts["peer"] = peer.address
            is_service = peer.certificate_pem is not None
            outcome.trace = self._traces.begin_call(method, metadata, is_service=is_service, streaming=streaming)
            facts.update(outcome.trace.ids)
            return await self._admit_and_invoke(method, peer, outcome, facts, invoke, streaming=streaming)
        except asyncio.CancelledError:
            outcome.code = "CANCELLED"
            raise
        except Exception as error:  # noqa: BLE001  # the one place where errors become statuses
            await self._fail(context, error, outcome, request_id)
            return None
        finally:
            self._under_way.discard(task)
            self._metrics.end(method)
            end_call(outcome.trace.span, outcome.code, outcome.reason)
            seconds = time.perf_counter() - started
            self._report(method, outcome, seconds, streaming=streaming)

    async def _admit_and_invoke(
        self, method: str, peer: Peer, outcome: _Outcome, facts: dict[str, str], invoke: Invoke, *, streaming: bool
    ) -> bytes | None:
        if self._draining:
            raise shutting_down()
        with self._bounds.under_way.any_call():
            with outcome.trace.span.current():
                caller = await self._authenticator.admit(method, peer)
            outcome.trace = self._traces.admitted(outcome.trace, method, caller)
            facts.update(outcome.trace.ids, caller=caller.name, caller_kind=caller.kind.value)
            with outcome.trace.span.current():
                self._traces.name_caller(caller)
                set_current_call(Call(caller, facts["request_id"]))
                with self._bounds.under_way.call_of(caller, streaming=streaming):
                    return await self._limited(method, caller, invoke, streaming=streaming)

    async def _limited(self, method: str, caller: Caller, invoke: Invoke, *, streaming: bool) -> bytes | None:
        async def before(request: Any) -> None:
            await self._bounds.limits.admit(method, caller, request)

        async with self._bounds.limits.counting(method, caller):
            if streaming:
                return await self._callers.run_stream(caller, invoke(before), self._authenticator.check_again)
            return await self._bounded(invoke(before))

    async def _bounded(self, invoked: Coroutine[Any, Any, bytes | None]) -> bytes | None:
        try:
            async with asyncio.timeout(self._bounds.unary_seconds) as limit:
                return await invoked
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ServiceError(
                StatusCode.DEADLINE_EXCEEDED, "TOO_SLOW", "the service took too long over this call"
            ) from error

    async def _fail(self, context: Any, error: Exception, outcome: _Outcome, request_id: str) -> None:
        if _is_transport(error):
            outcome.code = context.code().name if isinstance(error, grpc.aio.AbortError) else "CANCELLED"
            raise error
        refusal = refusal_of(error, self._error_codes) or self._surprise(error)
        outcome.code, outcome.reason = refusal.code.name, refusal.reason
        trailer = (*refusal.trailing_metadata(), (REQUEST_ID, request_id))
        await context.abort(refusal.code, refusal.details, trailer)

    def _surprise(self, error: Exception) -> Refusal:
        error_id = self._ids()
        self._log.unforeseen(error_id, error)
        return internal(error_id)

    def _request_id(self, metadata: Sequence[tuple[str, str | bytes]]) -> str:
        for name, given in metadata:
            if name == REQUEST_ID:
                return given if isinstance(given, str) and _REQUEST_ID.fullmatch(given) else self._ids()
        return self._ids()

    def _report(self, method: str, outcome: _Outcome, seconds: float, *, streaming: bool) -> None:
        self._metrics.calls_of(method, outcome.code).inc()
        if outcome.reason:
            self._metrics.refusals.labels(method, outcome.reason).inc()
        if not streaming:
            self._metrics.seconds_of(method).observe(seconds)
        self._log.ended(method, outcome.code, outcome.reason, seconds, is_recorded=outcome.trace.span.is_recorded)


def _is_transport(error: Exception) -> bool:
    """Whether gRPC itself ended the call: it was aborted already, or the peer is gone."""
    return isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError)
