"""Approval: the first key of a further device enters by the word of another device of its user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import EndorsementError
from keypost.protocol.identifiers import Address
from keypost.protocol.key_requests import KeyRequest, read_key_request, verify_endorsement
from keypost_services.ca import errors
from keypost_services.ca.audit import Actor, ActorKind
from keypost_services.ca.authority import Start, draw_device_id
from keypost_services.ca.convert import recorded_key, signed_request_message
from keypost_services.ca.endorsements import find_parent, verify_signature
from keypost_services.ca.nonces import Purpose
from keypost_services.ca.policy import check_new_device, check_revision, next_revision
from keypost_services.ca.store import Change, EventDraft

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost_services.ca.authority import Authority
    from keypost_services.ca.store import RecordedKey, User


class Approval:
    """Records first keys of further devices."""

    def __init__(self, authority: Authority, decoy: Callable[[str, int], int], random: Callable[[int], bytes]) -> None:
        """Take the parts.

        Args:
            authority: Store, policy and the like.
            decoy: Returns a plausible revision, at a time, for a username that does not exist.
            random: Returns that many random bytes.
        """
        self._authority = authority
        self._decoy = decoy
        self._random = random

    async def begin(self, username: str) -> Start:
        """Draw a device id and a nonce; stores nothing, and tells nobody whether the user exists."""
        now = self._authority.clock()
        user = await self._authority.find_user(username)
        address = Address(username, draw_device_id(self._random))
        nonce = self._authority.nonces.issue(Purpose.APPROVAL, address, now)
        epoch, revision = (1, self._decoy(username, now)) if user is None else (user.epoch, next_revision(user))
        return Start(address.device_id, nonce, epoch, revision, now)

    async def approve(self, request: KeyRequest) -> pb.KeyInfo:
        """Record the first key of a device; its possession is verified already.

        Raises:
            ServiceError: As ``Approve`` in the protos.
        """
        return await self._authority.decide(request, lambda: self._approve(request))

    async def _approve(self, request: KeyRequest) -> pb.KeyInfo:
        user = await self._authority.find_user(request.address.username)
        if user is not None and _is_repeated(request, user):
            return await self._authority.records.sign(user)
        now = self._authority.clock()
        self._authority.nonces.check(request.ca_nonce, Purpose.APPROVAL, request.address, now)
        user, parent = find_parent(user, request)
        _check_vouched_for(request, parent, now)
        check_revision(request, user, user.epoch)
        await self._check_allowed(request, user, now)
        return await self._authority.commit(_change(user, parent, request, now))

    async def _check_allowed(self, request: KeyRequest, user: User, now: int) -> None:
        check_new_device(request, user)
        self._authority.policy.check_suite(request)
        self._authority.policy.check_lifetime(request, now)
        await self._authority.check_new(request)
        self._authority.policy.check_devices(user)
        self._authority.policy.check_room(user, user.epoch, now)


def _is_repeated(request: KeyRequest, user: User) -> bool:
    """Whether this very approval succeeded before: its answer was lost."""
    known = user.find(request.fingerprint)
    return (
        known is not None
        and known.kind == pb.KEY_REQUEST_KIND_APPROVE
        and known.device_id == request.address.device_id
        and known.parent_fingerprint == request.parent_fingerprint
    )


def _check_vouched_for(request: KeyRequest, parent: RecordedKey, now: int) -> None:
    """Check that the parent signed, may still act, and may vouch for this; in this order."""
    approver = read_key_request(signed_request_message(parent))
    verify_signature(approver, request)
    _check_may_act(parent, now)
    try:
        verify_endorsement(request, approver)
    except EndorsementError as error:
        raise errors.endorsement_refused() from error


def _check_may_act(parent: RecordedKey, now: int) -> None:
    if parent.state == pb.KEY_STATE_REVOKED:
        raise errors.parent_revoked()
    if parent.state == pb.KEY_STATE_SUPERSEDED:
        raise errors.key_replaced()
    if now >= parent.expire_time:
        raise errors.parent_expired()


def _change(user: User, parent: RecordedKey, request: KeyRequest, now: int) -> Change:
    """Return the change by which the key enters; an announced identity reset stays announced."""
    now = user.no_earlier(now)
    return Change(
        username=user.username,
        epoch=user.epoch,
        revision=request.revision,
        time=now,
        actor=Actor(ActorKind.DEVICE, str(Address(user.username, parent.device_id))),
        reset_time=user.reset_time,
        key=recorded_key(request, now),
        events=(EventDraft(pb.KEY_EVENT_KIND_ENROLLED, request.fingerprint),),
    )
