"""The CA's two gRPC services: convert, call the domain, convert back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.ca.v1 import key_info_service_pb2 as info_pb
from keypost.ca.v1.ca_service_pb2_grpc import CertificateAuthorityServiceServicer
from keypost.ca.v1.key_info_service_pb2_grpc import KeyInfoServiceServicer
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.identifiers import Address
from keypost.protocol.revocations import verify_reset_cancellation, verify_revocation
from keypost_services.ca import convert, errors
from keypost_services.ca.convert_statements import read_signed_cancellation, read_signed_revocation
from keypost_services.ca.signatories import DeviceSignatory
from keypost_services.runtime.requests import (
    read_history_from,
    read_number,
    read_username,
    read_usernames,
    user_not_found,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import grpc.aio

    from keypost_services.ca.approval import Approval
    from keypost_services.ca.enrollment import Enrollment
    from keypost_services.ca.events import EventFeed
    from keypost_services.ca.records import Records
    from keypost_services.ca.renewal import Renewal
    from keypost_services.ca.reset import Resets
    from keypost_services.ca.revocation import Revocations
    from keypost_services.ca.trust.realm import ServedRealm

    Context = grpc.aio.ServicerContext[Any, Any]


class CertificateAuthorityServicer(CertificateAuthorityServiceServicer):
    """What devices call."""

    def __init__(
        self,
        realm: ServedRealm,
        enrollment: Enrollment,
        renewal: Renewal,
        approval: Approval,
        revocations: Revocations,
        resets: Resets,
    ) -> None:
        self._realm = realm
        self._enrollment = enrollment
        self._renewal = renewal
        self._approval = approval
        self._revocations = revocations
        self._resets = resets

    async def GetRealmTrust(  # noqa: N802, D102  # named by the proto
        self, request: pb.GetRealmTrustRequest, context: Context
    ) -> pb.GetRealmTrustResponse:
        del context
        served = self._realm.served(read_number(request.after_sequence, "after_sequence"))
        return pb.GetRealmTrustResponse(realm_trust=served.signed, earlier=served.earlier)

    async def BeginEnrollment(  # noqa: N802, D102
        self, request: pb.BeginEnrollmentRequest, context: Context
    ) -> pb.BeginEnrollmentResponse:
        del context
        username = read_username(request.username)
        start = await self._enrollment.begin(username, convert.read_proof(request.sign_in))
        return pb.BeginEnrollmentResponse(
            device_id=start.device_id,
            ca_nonce=start.ca_nonce,
            epoch=start.epoch,
            next_revision=start.next_revision,
            current_time=start.current_time,
            kind=start.kind,
        )

    async def Enroll(  # noqa: N802, D102
        self, request: pb.EnrollRequest, context: Context
    ) -> pb.EnrollResponse:
        del context
        proof = convert.read_proof(request.sign_in)
        kinds = keys_pb.KEY_REQUEST_KIND_ENROLL, keys_pb.KEY_REQUEST_KIND_RESET
        key_request = convert.read_request(request.key_request, self._realm.name, *kinds)
        return pb.EnrollResponse(key_info=await self._enrollment.enroll(key_request, proof))

    async def BeginRenewal(  # noqa: N802, D102
        self, request: pb.BeginRenewalRequest, context: Context
    ) -> pb.BeginRenewalResponse:
        del context
        username = read_username(request.username)
        device_id = convert.read_device_id(request.device_id)
        start = await self._renewal.begin(Address(username, device_id))
        return pb.BeginRenewalResponse(
            ca_nonce=start.ca_nonce,
            epoch=start.epoch,
            next_revision=start.next_revision,
            current_time=start.current_time,
        )

    async def Renew(  # noqa: N802, D102
        self, request: pb.RenewRequest, context: Context
    ) -> pb.RenewResponse:
        del context
        kind = keys_pb.KEY_REQUEST_KIND_RENEW
        key_request = convert.read_request(request.key_request, self._realm.name, kind)
        return pb.RenewResponse(key_info=await self._renewal.renew(key_request))

    async def BeginApproval(  # noqa: N802, D102
        self, request: pb.BeginApprovalRequest, context: Context
    ) -> pb.BeginApprovalResponse:
        del context
        start = await self._approval.begin(read_username(request.username))
        return pb.BeginApprovalResponse(
            device_id=start.device_id,
            ca_nonce=start.ca_nonce,
            epoch=start.epoch,
            next_revision=start.next_revision,
            current_time=start.current_time,
        )

    async def Approve(  # noqa: N802, D102
        self, request: pb.ApproveRequest, context: Context
    ) -> pb.ApproveResponse:
        del context
        kind = keys_pb.KEY_REQUEST_KIND_APPROVE
        key_request = convert.read_request(request.key_request, self._realm.name, kind)
        return pb.ApproveResponse(key_info=await self._approval.approve(key_request))

    async def Revoke(  # noqa: N802, D102
        self, request: pb.RevokeRequest, context: Context
    ) -> pb.RevokeResponse:
        del context
        revocation = read_signed_revocation(request.revocation, self._realm.name)
        signatory = DeviceSignatory(
            request.revocation.signer_fingerprint,
            request.revocation.SerializeToString(deterministic=True),
            partial(verify_revocation, revocation),
            self._realm.trust.constants.allowed_suites,
            errors.revocation_refused,
        )
        return pb.RevokeResponse(key_info=await self._revocations.revoke(revocation, signatory))

    async def RequestReset(  # noqa: N802, D102
        self, request: pb.RequestResetRequest, context: Context
    ) -> pb.RequestResetResponse:
        del context
        username = read_username(request.username)
        announced = await self._resets.request(username, convert.read_proof(request.sign_in))
        return pb.RequestResetResponse(reset_time=announced.reset_time, current_time=announced.current_time)

    async def CancelReset(  # noqa: N802, D102
        self, request: pb.CancelResetRequest, context: Context
    ) -> pb.CancelResetResponse:
        del context
        cancellation = read_signed_cancellation(request.cancellation, self._realm.name)
        signatory = DeviceSignatory(
            request.cancellation.signer_fingerprint,
            request.cancellation.SerializeToString(deterministic=True),
            partial(verify_reset_cancellation, cancellation),
            self._realm.trust.constants.allowed_suites,
            errors.reset_cancellation_refused,
            cancellation.address.device_id,
        )
        return pb.CancelResetResponse(key_info=await self._resets.cancel(cancellation, signatory))


class KeyInfoServicer(KeyInfoServiceServicer):
    """What directories call."""

    def __init__(self, records: Records, feed: EventFeed) -> None:
        self._records = records
        self._feed = feed

    async def GetKeyInfo(  # noqa: N802, D102  # named by the proto
        self, request: info_pb.GetKeyInfoRequest, context: Context
    ) -> info_pb.GetKeyInfoResponse:
        del context
        username = read_username(request.username)
        history_from = read_history_from(request.history_from_fingerprint)
        if (key_info := await self._records.find_one(username, history_from)) is None:
            raise user_not_found(username)
        return info_pb.GetKeyInfoResponse(key_info=key_info)

    async def BatchGetKeyInfo(  # noqa: N802, D102
        self, request: info_pb.BatchGetKeyInfoRequest, context: Context
    ) -> info_pb.BatchGetKeyInfoResponse:
        del context
        usernames = read_usernames(request.usernames)
        return info_pb.BatchGetKeyInfoResponse(key_info=await self._records.find(usernames))

    async def WatchKeyEvents(  # noqa: N802, D102
        self, request: info_pb.WatchKeyEventsRequest, context: Context
    ) -> AsyncIterator[info_pb.WatchKeyEventsResponse]:
        del context
        after = read_number(request.after_sequence, "after_sequence") if request.HasField("after_sequence") else None
        async for batch in self._feed.watch(after):
            yield info_pb.WatchKeyEventsResponse(
                events=[convert.event_message(event) for event in batch.events],
                newest_sequence=batch.newest_sequence,
            )
