"""The administrators' gRPC service: convert, call the domain, convert back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keypost.ca.v1 import administration_service_pb2 as pb
from keypost.ca.v1.administration_service_pb2_grpc import AdministrationServiceServicer
from keypost.protocol.administrators import LONGEST_SIGNATURE
from keypost_services.ca.administration import convert
from keypost_services.ca.administration.administration import AdministratorSignatory
from keypost_services.ca.codes import id_of
from keypost_services.ca.convert_statements import read_signed_revocation
from keypost_services.runtime.auth import current_caller
from keypost_services.runtime.requests import read_number, read_username

if TYPE_CHECKING:
    import grpc.aio

    from keypost_services.ca.administration.administration import Administration

    Context = grpc.aio.ServicerContext[Any, Any]

SIGNATURE_SIZES = range(1, LONGEST_SIGNATURE + 1)


class AdministrationServicer(AdministrationServiceServicer):
    """What administrators call; the method table admits nobody else."""

    def __init__(self, administration: Administration, realm: str) -> None:
        self._administration = administration
        self._realm = realm

    async def CreateOneTimeCode(  # noqa: N802, D102  # named by the proto
        self, request: pb.CreateOneTimeCodeRequest, context: Context
    ) -> pb.CreateOneTimeCodeResponse:
        del context
        username, lifetime = read_username(request.username), convert.read_lifetime(request.lifetime)
        made = await self._administration.create_code(_administrator(), username, lifetime)
        return pb.CreateOneTimeCodeResponse(code=made.code, code_id=made.code_id, expire_time=made.expire_time)

    async def ListOneTimeCodes(  # noqa: N802, D102
        self, request: pb.ListOneTimeCodesRequest, context: Context
    ) -> pb.ListOneTimeCodesResponse:
        del context
        size, after = convert.read_page_size(request.page_size), convert.read_code_token(request.page_token)
        username = read_username(request.username) if request.username else None
        page, last = convert.page_of(await self._administration.list_codes(username, size + 1, after), size)
        codes = map(convert.code_message, page)
        return pb.ListOneTimeCodesResponse(codes=codes, next_page_token=convert.code_token(last))

    async def WithdrawOneTimeCodes(  # noqa: N802, D102
        self, request: pb.WithdrawOneTimeCodesRequest, context: Context
    ) -> pb.WithdrawOneTimeCodesResponse:
        del context
        username, code_id = read_username(request.username), convert.read_code_id(request)
        withdrawn = await self._administration.withdraw_codes(_administrator(), username, code_id)
        return pb.WithdrawOneTimeCodesResponse(code_ids=map(id_of, withdrawn))

    async def GetUser(  # noqa: N802, D102
        self, request: pb.GetUserRequest, context: Context
    ) -> pb.GetUserResponse:
        del context
        user = await self._administration.find_user(read_username(request.username))
        return pb.GetUserResponse(user=convert.user_message(user))

    async def ListUsers(  # noqa: N802, D102
        self, request: pb.ListUsersRequest, context: Context
    ) -> pb.ListUsersResponse:
        del context
        size, after = convert.read_page_size(request.page_size), convert.read_username_token(request.page_token)
        page, last = convert.page_of(await self._administration.list_users(after, size + 1), size)
        users = map(convert.summary_message, page)
        return pb.ListUsersResponse(users=users, next_page_token=convert.username_token(last))

    async def RevokeKey(  # noqa: N802, D102
        self, request: pb.RevokeKeyRequest, context: Context
    ) -> pb.RevokeKeyResponse:
        del context
        revocation = read_signed_revocation(request.revocation, self._realm, SIGNATURE_SIZES)
        signatory = AdministratorSignatory(_administrator(), current_caller().public_key_der, revocation)
        user = await self._administration.revoke(revocation, signatory)
        return pb.RevokeKeyResponse(user=convert.user_message(user))

    async def AllowReset(  # noqa: N802, D102
        self, request: pb.AllowResetRequest, context: Context
    ) -> pb.AllowResetResponse:
        del context
        user = await self._administration.allow_reset(_administrator(), read_username(request.username))
        return pb.AllowResetResponse(user=convert.user_message(user))

    async def CancelReset(  # noqa: N802, D102
        self, request: pb.AdministrationServiceCancelResetRequest, context: Context
    ) -> pb.AdministrationServiceCancelResetResponse:
        del context
        user = await self._administration.cancel_reset(_administrator(), read_username(request.username))
        return pb.AdministrationServiceCancelResetResponse(user=convert.user_message(user))

    async def ListAuditEntries(  # noqa: N802, D102
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        del context
        wanted, size = convert.read_filter(request), convert.read_page_size(request.page_size)
        after = max(
            convert.read_sequence_token(request.page_token), read_number(request.after_sequence, "after_sequence")
        )
        page, last = convert.page_of(await self._administration.list_audit_entries(after, size + 1, wanted), size)
        entries = map(convert.audit_message, page)
        return pb.ListAuditEntriesResponse(entries=entries, next_page_token=convert.sequence_token(last))


def _administrator() -> str:
    """Return the name of the caller, whom the method table has admitted as an administrator."""
    name = current_caller().administrator
    if name is None:
        raise AssertionError("the method table admits somebody who is no administrator")
    return name
