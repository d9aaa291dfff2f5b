"""The CA's public port in the simulation (see support.simulation)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import grpc

from keypost.ca.v1 import ca_service_pb2 as ca_pb
from keypost.ca.v1 import ca_service_pb2_grpc as ca_grpc
from keypost.clock import DAY
from keypost.errors import KeypostError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.key_info import REVOKED, SUPERSEDED, Key
from keypost.protocol.key_requests import KeyRequest, read_key_request, verify_endorsement
from keypost.protocol.revocations import (
    read_reset_cancellation,
    read_revocation,
    verify_reset_cancellation,
    verify_revocation,
)
from keypost.protocol.validity import check_can_act
from support.refusing import refuse

if TYPE_CHECKING:
    from support.simulation import Services

WRONG_CODE = "0" * 26
RESET_DELAY = DAY
PRECONDITION, DENIED = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.PERMISSION_DENIED


class SimulatedCa(ca_grpc.CertificateAuthorityServiceServicer):
    """The CA's public port; any sign-in will do, except the code ``WRONG_CODE``.

    Unlike the real one it lets a user who has a device enrol another without approval, as a dishonest one may.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self.realm = services.realm

    async def GetRealmTrust(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("GetRealmTrust", request, context)
        return ca_pb.GetRealmTrustResponse(realm_trust=self.services.trust)

    async def BeginEnrollment(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("BeginEnrollment", request, context)
        await self._check_sign_in(request.sign_in, context)
        user = self.realm.user(request.username)
        is_reset = bool(user.reset_time) and user.reset_time <= self.realm.clock()
        return ca_pb.BeginEnrollmentResponse(
            device_id=self.realm.new_address(request.username).device_id,
            ca_nonce=self._nonce(),
            epoch=user.epoch + is_reset,
            next_revision=user.revision + 1,
            current_time=self.realm.clock(),
            kind=pb.KEY_REQUEST_KIND_RESET if is_reset else pb.KEY_REQUEST_KIND_ENROLL,
        )

    async def Enroll(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("Enroll", request, context)
        key_info = await self._record(request.key_request, context)
        await self.services.answer("Enroll", context)
        return ca_pb.EnrollResponse(key_info=key_info)

    async def BeginRenewal(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("BeginRenewal", request, context)
        user = self.realm.users[request.username]
        return ca_pb.BeginRenewalResponse(
            ca_nonce=self._nonce(),
            epoch=user.epoch,
            next_revision=user.revision + 1,
            current_time=self.realm.clock(),
        )

    async def Renew(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("Renew", request, context)
        key_info = await self._record(request.key_request, context)
        await self.services.answer("Renew", context)
        return ca_pb.RenewResponse(key_info=key_info)

    async def BeginApproval(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("BeginApproval", request, context)
        user = self.realm.users[request.username]
        return ca_pb.BeginApprovalResponse(
            device_id=self.realm.new_address(request.username).device_id,
            ca_nonce=self._nonce(),
            epoch=user.epoch,
            next_revision=user.revision + 1,
            current_time=self.realm.clock(),
        )

    async def Approve(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("Approve", request, context)
        key_info = await self._record(request.key_request, context)
        await self.services.answer("Approve", context)
        return ca_pb.ApproveResponse(key_info=key_info)

    async def Revoke(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("Revoke", request, context)
        revocation = read_revocation(request.revocation)
        username, since = revocation.address.username, revocation.since_time or None
        key = self.realm.key_record(username).get(revocation.fingerprint)
        turns_out = revocation.reason == pb.REVOCATION_REASON_COMPROMISED and not key.is_compromised
        if key.state != REVOKED or turns_out:
            signer = await self._signer(username, request.revocation.signer_fingerprint, "REVOCATION_REFUSED", context)
            verify_revocation(revocation, signer)
            await self._check_next(username, revocation.revision, context)
            self.realm.revoke(key, revocation.reason, since)  # type: ignore[arg-type]  # it has address and fingerprint
            self.realm.revoke_void(username)
        elif key.reason != revocation.reason:
            await refuse(context, PRECONDITION, "KEY_ENDED")
        await self.services.answer("Revoke", context)
        return ca_pb.RevokeResponse(key_info=self.realm.key_info(username))

    async def RequestReset(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("RequestReset", request, context)
        await self._check_sign_in(request.sign_in, context)
        if request.username not in self.realm.users or not self.services.good(request.username):
            await refuse(context, PRECONDITION, "RESET_NOT_NEEDED")
        reset_time = self.realm.announce_reset(request.username, RESET_DELAY)
        await self.services.answer("RequestReset", context)
        return ca_pb.RequestResetResponse(reset_time=reset_time, current_time=self.realm.clock())

    async def CancelReset(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("CancelReset", request, context)
        cancellation = read_reset_cancellation(request.cancellation)
        username, signer_name = cancellation.address.username, request.cancellation.signer_fingerprint
        signer = await self._signer(username, signer_name, "RESET_CANCELLATION_REFUSED", context)
        verify_reset_cancellation(cancellation, signer)
        if self.realm.users[username].reset_time:
            await self._check_next(username, cancellation.revision, context)
            self.realm.cancel_reset(username)
        await self.services.answer("CancelReset", context)
        return ca_pb.CancelResetResponse(key_info=self.realm.key_info(username))

    async def _record(self, signed: pb.SignedKeyRequest, context: Any) -> pb.KeyInfo:
        request = read_key_request(signed)
        username = request.address.username
        if not self._is_repeated(request):
            if request.ca_nonce not in self.services.nonces:
                await refuse(context, PRECONDITION, "NONCE_EXPIRED")
            await self._check_next(username, request.revision, context)
            if request.parent_fingerprint:
                await self._check_parent(request, context)
            if request.kind == pb.KEY_REQUEST_KIND_RESET:
                self.realm.end_epoch(username)
            self.realm.record(signed)
        return self.realm.key_info(username)

    def _is_repeated(self, request: KeyRequest) -> bool:
        keys = self.realm.user(request.address.username).keys
        known = next((key for key in keys if key.fingerprint == request.fingerprint), None)
        is_renewal = request.kind == pb.KEY_REQUEST_KIND_RENEW
        return known is not None and not (is_renewal and known.request.parent_fingerprint != request.parent_fingerprint)

    async def _check_parent(self, request: KeyRequest, context: Any) -> None:
        record = self.realm.key_record(request.address.username)
        parent = record.find(request.parent_fingerprint)
        if parent is None:
            await refuse(context, DENIED, "ENDORSEMENT_REFUSED")
        verify_endorsement(request, parent.request)
        if request.kind == pb.KEY_REQUEST_KIND_RENEW:
            if not parent.is_good:
                await refuse(context, PRECONDITION, "KEY_REVOKED" if parent.state == REVOKED else "KEY_REPLACED")
            if record.find(request.fingerprint) is not None:
                await refuse(context, grpc.StatusCode.ALREADY_EXISTS, "KEY_ALREADY_KNOWN")
            self.realm.set_state(parent, SUPERSEDED)  # type: ignore[arg-type]  # it has a fingerprint too
            return
        try:
            check_can_act(parent, record, self.realm.clock())
        except KeypostError as error:
            await refuse(context, PRECONDITION, error.reason)

    async def _check_next(self, username: str, revision: int, context: Any) -> None:
        if revision != self.realm.user(username).revision + 1:
            await refuse(context, grpc.StatusCode.ABORTED, "REVISION_TAKEN")

    async def _check_sign_in(self, sign_in: ca_pb.SignIn, context: Any) -> None:
        if sign_in.one_time_code == WRONG_CODE:
            await refuse(context, DENIED, "SIGN_IN_REFUSED")

    async def _signer(self, username: str, fingerprint: bytes, reason: str, context: Any) -> KeyRequest:
        """Return the key that signed, if it may sign for the user."""
        record = self.realm.key_record(username)
        key: Key | None = record.find(fingerprint)
        if key is None or key not in record.good_keys(self.realm.clock()):
            await refuse(context, DENIED, reason)
        return key.request

    def _nonce(self) -> bytes:
        nonce = os.urandom(32)
        self.services.nonces.add(nonce)
        return nonce
