"""The CA behind its internal port: the adapter of look-ups' ports to gRPC."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import Message

from keypost.ca.v1 import ca_service_pb2 as ca_pb
from keypost.ca.v1 import key_info_service_pb2 as pb
from keypost.ca.v1.ca_service_pb2_grpc import CertificateAuthorityServiceStub
from keypost.ca.v1.key_info_service_pb2_grpc import KeyInfoServiceStub
from keypost.protocol.realm_trust import ServedTrust
from keypost.transport.refusals import REQUEST_ID_HEADER, read_refusal
from keypost_services.runtime.errors import SourceAwayError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from keypost.keys.v1 import key_info_pb2
    from keypost.tracing import Traces

Q = TypeVar("Q", bound=Message)
R = TypeVar("R")
MOST_AT_ONCE = 64
SERVICE = "ca"


class CaClient:
    """KeySource, and the source of the trust statement and of key events, over one channel.

    Args:
        channel: To the CA's internal port, over mutual TLS.
        timeout_ms: How long to wait for an answer.
        traces: Records calls.
        request_ids: Names calls, each by the request that it is made for.
    """

    def __init__(
        self, channel: grpc.aio.Channel, *, timeout_ms: int, traces: Traces, request_ids: Callable[[], str]
    ) -> None:
        self._keys = KeyInfoServiceStub(channel)
        self._authority = CertificateAuthorityServiceStub(channel)
        self._timeout = timeout_ms / 1000
        self._traces = traces
        self._request_ids = request_ids
        self._at_once = asyncio.Semaphore(MOST_AT_ONCE)

    async def fetch(self, usernames: Sequence[str]) -> Mapping[str, key_info_pb2.KeyInfo]:
        """Return the key info of those of these (1 to 100) users that exist, with full history.

        Raises:
            SourceAwayError: the CA does not answer, or refuses this directory.
        """
        try:
            async with asyncio.timeout(self._timeout), self._at_once:
                return await (self._one(usernames[0]) if len(usernames) == 1 else self._many(usernames))
        except grpc.aio.AioRpcError as error:
            raise _away(error) from error
        except TimeoutError as error:
            raise SourceAwayError("the CA did not answer in time") from error

    async def fetch_trust(self) -> ServedTrust:
        """Return the realm's trust statement, and all by which root keys handed over: they are served on.

        Raises:
            SourceAwayError: the CA does not answer.
        """
        try:
            response = await self._call(self._authority.GetRealmTrust, ca_pb.GetRealmTrustRequest())
        except grpc.aio.AioRpcError as error:
            raise _away(error) from error
        return ServedTrust(response.realm_trust, tuple(response.earlier))

    def open_watch(self, after_sequence: int | None) -> Any:
        """Open a watch of the key events."""
        return self._keys.WatchKeyEvents(pb.WatchKeyEventsRequest(after_sequence=after_sequence))

    async def _one(self, username: str) -> Mapping[str, key_info_pb2.KeyInfo]:
        try:
            response = await self._call(self._keys.GetKeyInfo, pb.GetKeyInfoRequest(username=username))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND and _reason(error) == "USER_NOT_FOUND":
                return {}
            raise
        return {username: response.key_info}

    async def _many(self, usernames: Sequence[str]) -> Mapping[str, key_info_pb2.KeyInfo]:
        request = pb.BatchGetKeyInfoRequest(usernames=usernames)
        return (await self._call(self._keys.BatchGetKeyInfo, request)).key_info

    async def _call(self, method: grpc.aio.UnaryUnaryMultiCallable[Q, R], request: Q) -> R:
        with self._traces.call(request) as headers:
            metadata = ((REQUEST_ID_HEADER, self._request_ids()), *headers)
            return await method(request, timeout=self._timeout, metadata=metadata)


def _reason(error: grpc.aio.AioRpcError) -> str:
    return read_refusal(error, SERVICE).error.reason


def _away(error: grpc.aio.AioRpcError) -> SourceAwayError:
    return SourceAwayError(f"the CA does not answer: {error.code().name} ({_reason(error)})")
