"""The directory, typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.directory.v1 import directory_service_pb2 as pb
from keypost.directory.v1.directory_service_pb2_grpc import DirectoryServiceStub
from keypost.protocol.realm_trust import ServedTrust
from keypost.transport.remote_service import RemoteService, draw_request_id

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc.aio

    from keypost.keys.v1 import key_info_pb2
    from keypost.tracing import Traces
    from keypost.transport.retries import Retries
    from keypost.transport.tokens import TokenSource

SERVICE = "directory"


class DirectoryClient:
    """Looks up key info. Nothing here verifies: what comes back is verified by keypost.protocol.

    Args:
        channel: To the directory.
        retries: Deadlines and retries.
        tokens: Tokens of the calling device; None for a service, which shows its certificate.
        endpoint: Where it is, for errors.
        traces: Records calls.
        request_ids: Names calls.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        retries: Retries,
        tokens: TokenSource | None = None,
        *,
        endpoint: str = "",
        traces: Traces | None = None,
        request_ids: Callable[[], str] = draw_request_id,
    ) -> None:
        self._stub = DirectoryServiceStub(channel)
        self._remote = RemoteService(
            SERVICE, retries, tokens, endpoint=endpoint, traces=traces, request_ids=request_ids
        )

    async def get_realm_trust(self, after_sequence: int = 0) -> ServedTrust:
        """Return the realm's trust statement and those later than ``after_sequence`` that lead to it, unverified."""
        request = pb.GetRealmTrustRequest(after_sequence=after_sequence)
        response = await self._remote.call(self._stub.GetRealmTrust, request, anonymous=True)
        return ServedTrust(response.realm_trust, tuple(response.earlier))

    async def get_key_info(
        self, username: str, *, min_revision: int = 0, history_from: bytes = b""
    ) -> key_info_pb2.KeyInfo:
        """Return the key info of a user, unverified.

        Args:
            username: The user.
            min_revision: A revision that the caller believes to exist; the directory asks the CA
                rather than answer with less.
            history_from: The newest key of the user that the caller knows, whose history is then left out (32 bytes);
                empty: none.

        Returns:
            The key info.

        Raises:
            RefusedError: USER_NOT_FOUND, CA_UNAVAILABLE, TOKEN_REFUSED.
            UnreachableError: No answer.
        """
        request = pb.GetKeyInfoRequest(
            username=username, min_revision=min_revision, history_from_fingerprint=history_from
        )
        return (await self._remote.call(self._stub.GetKeyInfo, request)).key_info
