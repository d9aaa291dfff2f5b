"""Joining: the first key of a further device, for which another device of the user vouches."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from keypost.ca.v1 import ca_service_pb2
from keypost.client.identity import NotEnrolledError
from keypost.client.key_requests import INVITATION, check_clock, fill_request, generate, put_pending
from keypost.client.own_watch import as_revoked, says_replaced
from keypost.client.results import JoinRequest
from keypost.errors import InvalidArgumentError, KeypostError, RefusedError, UnreachableError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.continuity import Pins
from keypost.protocol.errors import IdentityChangedError
from keypost.protocol.invitations import read_invitation, request_to_text
from keypost.protocol.key_requests import sign_possession
from keypost.protocol.realm_trust import CLOCK_SKEW
from keypost.protocol.rsa import private_key_to_der
from keypost.transport.remote_service import TOKEN_REFUSED

if TYPE_CHECKING:
    from keypost.client.context import Context
    from keypost.client.enrolling import Enrolling
    from keypost.client.first_key import FirstKey
    from keypost.client.identity import Identity
    from keypost.client.records import Records
    from keypost.keystore.port import KeyStore
    from keypost.protocol.identifiers import Address
    from keypost.protocol.invitations import Invitation
    from keypost.protocol.key_info import KeyRecord
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost.protocol.suites import Suite


class InvitationExpiredError(KeypostError):
    """An invitation is older than the CA takes requests that answer it."""

    reason = "INVITATION_EXPIRED"


class Joining:
    """Answers the invitation of another device of the user, and finds out when that device has approved.

    Args:
        context: What all parts share.
        identity: The own device.
        records: Where the own record is verified and kept.
        enrolling: Knows which suites may be asked for.
        first_key: Makes a recorded pair the current one.
    """

    def __init__(
        self, context: Context, identity: Identity, records: Records, enrolling: Enrolling, first_key: FirstKey
    ) -> None:
        self._context = context
        self._identity = identity
        self._records = records
        self._enrolling = enrolling
        self._first_key = first_key

    async def join(self, text: str, suite: Suite) -> JoinRequest:
        """Return what the inviting device is to approve; see Client.join."""
        invitation = read_invitation(text)
        self._check_invitation(invitation)
        await self._records.stopping.check_not_stolen()
        await self._enrolling.check_suite(suite)
        await self._check_unjoined()
        if (pending := await self._answered(invitation, suite)) is not None:
            return pending
        return await self._answer(invitation, suite)

    async def finish(self) -> Address | None:
        """Return the own address if the record shows the pending key by now; see Client.joined.

        Raises:
            InvitationExpiredError: it does not, and nobody can approve any more.
            DeviceKeyStolenError: it was recorded, and somebody has renewed it since.
            KeyRevokedError: it was recorded, and revoked since.
        """
        await self._records.stopping.check_not_stolen()
        ring = self._identity.ring
        if ring.current is not None:
            return self._identity.address
        invitation = await self._invitation()
        if ring.pending is None or invitation is None:
            raise NotEnrolledError("this profile has answered no invitation: join first")
        record = await self._recorded(ring.pending)
        if record is not None:
            return await self._first_key.finish(ring.pending, record)
        over = self._context.clock() >= invitation.expire_time + CLOCK_SKEW
        # A key that ended long ago, or by a reset, stands in no record any more: the directory knows nothing of it.
        if over and not await self._first_key.is_recorded(ring.pending):
            raise _expired(invitation)
        return None

    def _check_invitation(self, invitation: Invitation) -> None:
        if invitation.realm != self._context.realm:
            sentence = f"the invitation is of the realm {invitation.realm}, this profile of {self._context.realm}"
            raise InvalidArgumentError(sentence, field="invitation")
        me = self._identity.ring.address
        if me is not None and self._identity.ring.current is None and me.username != invitation.address.username:
            # What a stale backup left: the history in it is that user's.
            sentence = f"this profile is of {me.username}, the invitation of {invitation.address.username}"
            raise InvalidArgumentError(sentence, field="invitation")
        now = self._context.clock()
        if now >= invitation.expire_time + CLOCK_SKEW:
            raise _expired(invitation)
        if now < invitation.create_time:
            check_clock(_begun(invitation), now)

    async def _check_unjoined(self) -> None:
        """Refuse a profile that is a device already, or that turns out to have become one."""
        pending = self._identity.ring.pending
        if self._identity.ring.current is None and pending is not None:
            # Its key may be recorded, and only the answer lost: the only copy of that key is not given up.
            with suppress(IdentityChangedError):  # what an invitation named that is now given up
                if (record := await self._ask(pending)) is not None:
                    await self._first_key.finish(pending, record)
                elif await self._first_key.is_recorded(pending):
                    sentence = "this profile's key is recorded already, and the directory behind: wait for it (joined)"
                    raise InvalidArgumentError(sentence, field="invitation")
        if self._identity.ring.current is not None:
            sentence = f"this profile is {self._identity.address} already: use another one for a further device"
            raise InvalidArgumentError(sentence, field="invitation")

    async def _answered(self, invitation: Invitation, suite: Suite) -> JoinRequest | None:
        """Return the request that was made for this very invitation before, if there is one."""
        stored = await self._context.store.run(lambda store: store.key_pairs.pending())
        pending = self._identity.ring.pending
        if stored is None or pending is None or pending.suite is not suite or await self._invitation() != invitation:
            return None
        return _join_request(pending, pb.SignedKeyRequest.FromString(stored.key_request))

    async def _answer(self, invitation: Invitation, suite: Suite) -> JoinRequest:
        # A pair of its own: if an earlier request is approved yet, that key stands beside this one and can be revoked.
        pair = await generate(self._context, invitation.address, suite)
        kind, parent = pb.KEY_REQUEST_KIND_APPROVE, invitation.parent_fingerprint
        signed = sign_possession(fill_request(self._context, pair, _begun(invitation), kind, parent), pair)
        await self._context.store.transact(
            _write, invitation, pair, private_key_to_der(pair.private_key), signed.SerializeToString()
        )
        await self._identity.reload()
        return _join_request(pair, signed)

    async def _recorded(self, pending: DeviceKeyPair) -> KeyRecord | None:
        """Return the record if it shows the pending key; nobody to ask is no answer."""
        try:
            return await self._ask(pending)
        except UnreachableError:
            return None
        except RefusedError as refused:
            if not refused.retriable:
                raise
            return None

    async def _ask(self, pending: DeviceKeyPair) -> KeyRecord | None:
        try:
            record = await self._records.get_as_pending(pending.address.username)
        except RefusedError as refused:
            if refused.reason != TOKEN_REFUSED:
                raise
            if (revoked := as_revoked(refused, pending.address)) is not None:
                raise revoked from refused
            if says_replaced(refused):
                await self._first_key.is_recorded(pending)
            # A key that is not recorded may not ask.
            return None
        return record if record.find(pending.fingerprint) is not None else None

    async def _invitation(self) -> Invitation | None:
        note = await self._context.store.run(lambda store: store.profile.note(INVITATION))
        return None if note is None else read_invitation(note.decode())


def _write(
    store: KeyStore, invitation: Invitation, pair: DeviceKeyPair, private_key_der: bytes, request: bytes
) -> None:
    username = invitation.address.username
    put_pending(store, pair, private_key_der, request)
    store.profile.set_note(INVITATION, invitation.text.encode())
    # What the invitation says is all that this device knows of its user: no other identity gets past these pins.
    pins = Pins(username, invitation.epoch, invitation.root, members={}, successors={}, requests={})
    store.records.set_pins(username, pins.to_bytes())


def _begun(invitation: Invitation) -> ca_service_pb2.BeginApprovalResponse:
    return ca_service_pb2.BeginApprovalResponse(
        device_id=invitation.address.device_id,
        ca_nonce=invitation.ca_nonce,
        epoch=invitation.epoch,
        next_revision=invitation.revision,
        current_time=invitation.create_time,
    )


def _join_request(pair: DeviceKeyPair, signed: pb.SignedKeyRequest) -> JoinRequest:
    return JoinRequest(pair.address, pair.suite, pair.fingerprint, request_to_text(signed))


def _expired(invitation: Invitation) -> InvitationExpiredError:
    return InvitationExpiredError(
        f"the invitation of {invitation.address.username} has expired: invite anew on the other device, and check the "
        "clock of this machine",
        username=invitation.address.username,
    )
