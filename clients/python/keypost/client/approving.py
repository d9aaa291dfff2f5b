"""Approving: this device invites a further one of its user, and vouches for its key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.client.key_requests import check_clock
from keypost.client.records import RecordBehindError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import EndorsementError, KeyUnknownError
from keypost.protocol.identifiers import Address
from keypost.protocol.invitations import Invitation, read_request_text
from keypost.protocol.key_info import Key
from keypost.protocol.key_requests import read_key_request, verify_endorsement
from keypost.protocol.renewal import step_2_hash_new_public_key, step_3_sign_hash
from keypost.protocol.suites import WEAK
from keypost.protocol.validity import Policy, check_can_act, check_suite

if TYPE_CHECKING:
    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.client.records import Records
    from keypost.client.trusting import Trust
    from keypost.protocol.key_info import KeyRecord
    from keypost.protocol.key_requests import DeviceKeyPair, KeyRequest
    from keypost.transport.ca_client import CaClient


class Approving:
    """Invites further devices of the own user, and approves them.

    Args:
        context: What all parts share.
        identity: The own device.
        ca: The CA.
        records: Where the own record is verified and kept.
        trust: The realm's trust.
    """

    def __init__(self, context: Context, identity: Identity, ca: CaClient, records: Records, trust: Trust) -> None:
        self._context = context
        self._identity = identity
        self._ca = ca
        self._records = records
        self._trust = trust

    async def invite(self) -> Invitation:
        """Return an invitation for a further device; see Client.invite."""
        own = self._identity.current
        _check_strong(own)
        begun = await self._ca.begin_approval(own.address.username)
        check_clock(begun, self._context.clock())
        record = await self._own_record(own, begun.next_revision - 1)
        if (record.epoch, record.revision + 1) != (begun.epoch, begun.next_revision):
            raise RecordBehindError(
                "the directory and the CA do not agree yet on this user's record: try again", username=record.username
            )
        return Invitation(
            realm=self._context.realm,
            address=Address(own.address.username, begun.device_id),
            ca_nonce=begun.ca_nonce,
            epoch=begun.epoch,
            revision=begun.next_revision,
            create_time=begun.current_time,
            parent_fingerprint=own.fingerprint,
            root=record.tree(self._context.minimum_suite).root,
        )

    async def read(self, text: str) -> KeyRequest:
        """Return the request that a text carries, if this device may vouch for it; see Client.read_request."""
        request, _ = await self._checked(text)
        return request

    async def approve(self, text: str) -> Key:
        """Vouch for a request and have it recorded; see Client.approve."""
        request, record = await self._checked(text)
        if (key := record.find(request.fingerprint)) is not None:
            # Only the answer was lost.
            return key
        signed = _endorse(request, self._identity.current, record)
        self._records.watch.expect(request.fingerprint)
        answered = await self._records.learn(record.username, await self._ca.approve(signed))
        return _check_approved(answered, request)

    async def _checked(self, text: str) -> tuple[KeyRequest, KeyRecord]:
        request, own = read_request_text(text), self._identity.current
        _check_of_this_user(request, own, self._context.realm)
        record = await self._own_record(own, request.revision - 1)
        if not _is_recorded(request, record):
            _check_answers(request, own)
            _check_new_device(request, record)
            await self._check_suite(request)
        return request, record

    async def _own_record(self, own: DeviceKeyPair, min_revision: int) -> KeyRecord:
        record = await self._records.get(own.address.username, min_revision=min_revision, refresh=True)
        check_can_act(record.get(own.fingerprint), record, self._context.clock())
        return record

    async def _check_suite(self, request: KeyRequest) -> None:
        constants, now = (await self._trust.current()).constants, self._context.clock()
        as_if_recorded = Key(request, pb.KEY_STATE_GOOD, now, now)
        check_suite(as_if_recorded, Policy(constants, self._context.minimum_suite))


def _is_recorded(request: KeyRequest, record: KeyRecord) -> bool:
    """Return whether this very request was approved before, byte for byte."""
    key = record.find(request.fingerprint)
    return key is not None and key.request.signed.key_request == request.signed.key_request


def _check_strong(own: DeviceKeyPair) -> None:
    if own.suite is WEAK:
        raise EndorsementError("a key of the weak suite approves nothing: who breaks it could vouch in its name")


def _check_of_this_user(request: KeyRequest, own: DeviceKeyPair, realm: str) -> None:
    if (request.realm, request.address.username) != (realm, own.address.username):
        raise EndorsementError(
            f"the request is for {request.address.username} in {request.realm}: this device vouches for devices of "
            f"{own.address.username} in {realm} alone"
        )


def _check_answers(request: KeyRequest, own: DeviceKeyPair) -> None:
    """Verify that a request answers an invitation of this very key, and asks for a further device."""
    _check_strong(own)
    if request.kind != pb.KEY_REQUEST_KIND_APPROVE:
        raise EndorsementError("the request does not ask for a further device: it is none that `join` makes")
    if request.parent_fingerprint != own.fingerprint:
        raise EndorsementError(
            "the request answers the invitation of another device, or of an earlier key of this one: invite anew"
        )


def _check_new_device(request: KeyRequest, record: KeyRecord) -> None:
    if any(known.address == request.address for known in record.requests):
        raise EndorsementError(f"the request is for {request.address}, a device that this user has already")
    if (request.epoch, request.revision) != (record.epoch, record.revision + 1):
        raise EndorsementError("this user's keys have changed since the invitation was made: invite anew")


def _endorse(request: KeyRequest, own: DeviceKeyPair, record: KeyRecord) -> pb.SignedKeyRequest:
    """Return the request with this device's signature, which no peer would refuse."""
    signed = pb.SignedKeyRequest()
    signed.CopyFrom(request.signed)
    hashed = step_2_hash_new_public_key(own, signed.key_request, request.public_key_der)
    signed.endorsement = step_3_sign_hash(own, hashed)
    verify_endorsement(read_key_request(signed), record.get(own.fingerprint).request)
    return signed


def _check_approved(record: KeyRecord, request: KeyRequest) -> Key:
    key = record.get(request.fingerprint)
    if not key.is_good or record.is_void(key):
        raise KeyUnknownError("the CA's record does not show the approved key as good", username=record.username)
    return key
