"""The CA, typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.ca.v1.ca_service_pb2_grpc import CertificateAuthorityServiceStub
from keypost.protocol.realm_trust import ServedTrust
from keypost.transport.remote_service import RemoteService

if TYPE_CHECKING:
    import grpc.aio

    from keypost.keys.v1 import key_info_pb2
    from keypost.tracing import Traces
    from keypost.transport.retries import Retries

SERVICE = "ca"


class CaClient:
    """Calls the CA's public port. Nothing here verifies: what comes back is verified by keypost.protocol.

    Args:
        channel: To the CA.
        retries: Deadlines and retries.
        endpoint: Where it is, for errors.
        traces: Records calls.
    """

    def __init__(
        self, channel: grpc.aio.Channel, retries: Retries, *, endpoint: str = "", traces: Traces | None = None
    ) -> None:
        self._stub = CertificateAuthorityServiceStub(channel)
        self._remote = RemoteService(SERVICE, retries, endpoint=endpoint, traces=traces)

    async def get_realm_trust(self, after_sequence: int = 0) -> ServedTrust:
        """Return the realm's trust statement and those later than ``after_sequence`` that lead to it, unverified."""
        request = pb.GetRealmTrustRequest(after_sequence=after_sequence)
        response = await self._remote.call(self._stub.GetRealmTrust, request)
        return ServedTrust(response.realm_trust, tuple(response.earlier))

    async def begin_enrollment(self, username: str, sign_in: pb.SignIn) -> pb.BeginEnrollmentResponse:
        """Start an enrolment; return what the key request must contain."""
        request = pb.BeginEnrollmentRequest(username=username, sign_in=sign_in)
        return await self._remote.call(self._stub.BeginEnrollment, request)

    async def enroll(self, key_request: key_info_pb2.SignedKeyRequest, sign_in: pb.SignIn) -> key_info_pb2.KeyInfo:
        """Have a first key recorded (may be repeated: the CA answers the second time as the first)."""
        request = pb.EnrollRequest(key_request=key_request, sign_in=sign_in)
        return (await self._remote.call(self._stub.Enroll, request)).key_info

    async def begin_renewal(self, username: str, device_id: str) -> pb.BeginRenewalResponse:
        """Start a renewal; return what the key request must contain."""
        request = pb.BeginRenewalRequest(username=username, device_id=device_id)
        return await self._remote.call(self._stub.BeginRenewal, request)

    async def renew(self, key_request: key_info_pb2.SignedKeyRequest) -> key_info_pb2.KeyInfo:
        """Have a key replaced by its successor (may be repeated, as enroll may)."""
        return (await self._remote.call(self._stub.Renew, pb.RenewRequest(key_request=key_request))).key_info

    async def begin_approval(self, username: str) -> pb.BeginApprovalResponse:
        """Start the approval of a further device; return what its key request must contain."""
        return await self._remote.call(self._stub.BeginApproval, pb.BeginApprovalRequest(username=username))

    async def approve(self, key_request: key_info_pb2.SignedKeyRequest) -> key_info_pb2.KeyInfo:
        """Have the first key of a further device recorded (may be repeated, as enroll may)."""
        return (await self._remote.call(self._stub.Approve, pb.ApproveRequest(key_request=key_request))).key_info

    async def revoke(self, revocation: key_info_pb2.SignedRevocation) -> key_info_pb2.KeyInfo:
        """Have a key withdrawn (may be repeated)."""
        return (await self._remote.call(self._stub.Revoke, pb.RevokeRequest(revocation=revocation))).key_info

    async def request_reset(self, username: str, sign_in: pb.SignIn) -> pb.RequestResetResponse:
        """Ask for an identity reset (may be repeated); return from when on it may take place."""
        request = pb.RequestResetRequest(username=username, sign_in=sign_in)
        return await self._remote.call(self._stub.RequestReset, request)

    async def cancel_reset(self, cancellation: key_info_pb2.SignedResetCancellation) -> key_info_pb2.KeyInfo:
        """Stop an announced identity reset (may be repeated)."""
        request = pb.CancelResetRequest(cancellation=cancellation)
        return (await self._remote.call(self._stub.CancelReset, request)).key_info
