"""An administrator's end of the channel to the CA's internal port, and what is signed there."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from keypost.ca.v1 import administration_service_pb2 as pb
from keypost.ca.v1.administration_service_pb2_grpc import AdministrationServiceStub
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.administrators import sign_administrators_revocation
from keypost.transport.retries import Retries
from keypost_services.ca.administration.convert import MOST_ON_A_PAGE
from keypost_services.runtime.channels import mutual_tls_channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    import grpc.aio

    from keypost_services.ca.administration.access import Access

R = TypeVar("R")
SERVICE = "ca"


@contextlib.asynccontextmanager
async def open_client(access: Access, retries: Retries | None = None) -> AsyncIterator[AdministrationClient]:
    """Yield a client as long as the context lasts; it connects with its first call."""
    pair = access.certificate_pem, access.private_key_pem
    async with mutual_tls_channel(access.target, SERVICE, *pair, access.root_pem) as channel:
        yield AdministrationClient(channel, access, retries or Retries(attempts=3))


class AdministrationClient:
    """Calls the administration service. Every method raises RefusedError or UnreachableError.

    Args:
        channel: To the CA's internal port.
        access: Who calls.
        retries: Deadlines and retries; every call may be repeated.
    """

    def __init__(self, channel: grpc.aio.Channel, access: Access, retries: Retries) -> None:
        self._stub = AdministrationServiceStub(channel)
        self._access = access
        self._retries = retries

    async def create_code(self, username: str, lifetime: int) -> pb.CreateOneTimeCodeResponse:
        """Have a one-time code drawn, good for ``lifetime`` milliseconds."""
        request = pb.CreateOneTimeCodeRequest(username=username, lifetime=lifetime)
        return await self._call(lambda seconds: self._stub.CreateOneTimeCode(request, timeout=seconds))

    async def codes(self, username: str) -> AsyncIterator[pb.OneTimeCode]:
        """Yield the one-time codes that are open, of a user or, without a name, of all, page by page."""
        async for page in self._pages(self._stub.ListOneTimeCodes, pb.ListOneTimeCodesRequest(username=username)):
            for code in page.codes:
                yield code

    async def withdraw_codes(self, username: str, code_id: str | None = None) -> Sequence[str]:
        """Withdraw a one-time code of a user, or all that are open; return the ids of what is withdrawn."""
        request = pb.WithdrawOneTimeCodesRequest(username=username, code_id=code_id or "", all=code_id is None)
        answer = await self._call(lambda seconds: self._stub.WithdrawOneTimeCodes(request, timeout=seconds))
        return answer.code_ids

    async def find_user(self, username: str) -> pb.User:
        """Return a user."""
        request = pb.GetUserRequest(username=username)
        return (await self._call(lambda seconds: self._stub.GetUser(request, timeout=seconds))).user

    async def users(self) -> AsyncIterator[pb.UserSummary]:
        """Yield all users, page by page."""
        async for page in self._pages(self._stub.ListUsers, pb.ListUsersRequest()):
            for user in page.users:
                yield user

    async def audit_entries(self, request: pb.ListAuditEntriesRequest) -> AsyncIterator[pb.AuditEntry]:
        """Yield all entries of the audit log that ``request`` asks for, page by page."""
        async for page in self._pages(self._stub.ListAuditEntries, request):
            for entry in page.entries:
                yield entry

    async def revoke(
        self, user: pb.User, key: pb.UserKey, reason: keys_pb.RevocationReason.ValueType, since_time: int
    ) -> pb.User:
        """Sign the revocation of a key of a user as just looked up, and have it recorded."""
        revocation = keys_pb.Revocation(
            realm=self._access.realm,
            username=user.username,
            device_id=key.device_id,
            fingerprint=key.fingerprint,
            reason=reason,
            revision=user.revision + 1,
            since_time=since_time,
        )
        signed = sign_administrators_revocation(revocation, self._access.private_key)
        request = pb.RevokeKeyRequest(revocation=signed)
        return (await self._call(lambda seconds: self._stub.RevokeKey(request, timeout=seconds))).user

    async def allow_reset(self, username: str) -> pb.User:
        """Allow an identity reset at once."""
        request = pb.AllowResetRequest(username=username)
        return (await self._call(lambda seconds: self._stub.AllowReset(request, timeout=seconds))).user

    async def cancel_reset(self, username: str) -> pb.User:
        """Stop an identity reset."""
        request = pb.AdministrationServiceCancelResetRequest(username=username)
        return (await self._call(lambda seconds: self._stub.CancelReset(request, timeout=seconds))).user

    async def _pages(self, method: Any, request: Any) -> AsyncIterator[Any]:
        """Yield the pages that a method of the stub answers with, as ``request`` asks for them, up to the last."""
        request.page_size = MOST_ON_A_PAGE
        while True:
            page = await self._call(lambda seconds: method(request, timeout=seconds))
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def _call(self, attempt: Callable[[float], Awaitable[R]]) -> R:
        return await self._retries.make(attempt, SERVICE, self._access.target)
