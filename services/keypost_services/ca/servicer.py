"""The CA's two gRPC services: convert, call the domain, convert back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.ca.v1 import key_info_service_pb2 as info_pb
from keypost.ca.v1.ca_service_pb2_grpc import CertificateAuthorityServiceServicer
from keypost.ca.v1.key_info_service_pb2_grpc import KeyInfoServiceServicer
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.identifiers import Address
from keypost_services.ca import convert
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

    from keypost.protocol.realm_trust import RealmTrust
    from keypost_services.ca.enrollment import Enrollment
    from keypost_services.ca.events import EventFeed
    from keypost_services.ca.records import Records
    from keypost_services.ca.renewal import Renewal

    Context = grpc.aio.ServicerContext[Any, Any]


class CertificateAuthorityServicer(CertificateAuthorityServiceServicer):
    """What devices call."""

    def __init__(self, trust: RealmTrust, enrollment: Enrollment, renewal: Renewal) -> None:
        self._trust = trust
        self._enrollment = enrollment
        self._renewal = renewal

    async def GetRealmTrust(  # noqa: N802, D102  # named by the proto
        self, request: pb.GetRealmTrustRequest, context: Context
    ) -> pb.GetRealmTrustResponse:
        del request, context
        return pb.GetRealmTrustResponse(realm_trust=self._trust.signed)

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
        )

    async def Enroll(  # noqa: N802, D102
        self, request: pb.EnrollRequest, context: Context
    ) -> pb.EnrollResponse:
        del context
        proof = convert.read_proof(request.sign_in)
        kind = keys_pb.KEY_REQUEST_KIND_ENROLL
        key_request = convert.read_request(request.key_request, self._trust.realm, kind)
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
        key_request = convert.read_request(request.key_request, self._trust.realm, kind)
        return pb.RenewResponse(key_info=await self._renewal.renew(key_request))


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
