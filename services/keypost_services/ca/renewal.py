"""Renewal: a key is replaced by its successor; the CA's half of the source document's eight steps (5 to 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import EndorsementError
from keypost.protocol.key_info import Key
from keypost.protocol.key_requests import KeyRequest, read_key_request
from keypost.protocol.renewal import (
    step_5_hash_uploaded_public_key,
    step_6_verify_signature,
    step_7_update_key_info,
)
from keypost.protocol.steps import renewal_step
from keypost_services.ca import errors
from keypost_services.ca.audit import Actor, ActorKind
from keypost_services.ca.authority import Start
from keypost_services.ca.convert import recorded_key, signed_request_message
from keypost_services.ca.endorsements import find_parent, verify_signature
from keypost_services.ca.nonces import Purpose
from keypost_services.ca.policy import check_revision, is_good, next_revision
from keypost_services.ca.store import Change, Ending, EventDraft

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost.protocol.identifiers import Address
    from keypost.protocol.steps import Observer
    from keypost_services.ca.authority import Authority
    from keypost_services.ca.store import RecordedKey, User

ACTOR = "ca"


class Renewal:
    """Replaces keys of devices by their successors."""

    def __init__(self, authority: Authority, observer: Observer, decoy: Callable[[str, int], int]) -> None:
        """Take the parts.

        Args:
            authority: Store, policy and the like.
            observer: Is told of steps 5 to 7.
            decoy: Returns a plausible revision, at a time, for a username that does not exist.
        """
        self._authority = authority
        self._observer = observer
        self._decoy = decoy

    async def begin(self, address: Address) -> Start:
        """Draw a nonce; stores nothing, and tells nobody whether the device or its user exists."""
        now = self._authority.clock()
        user = await self._authority.find_user(address.username)
        nonce = self._authority.nonces.issue(Purpose.RENEWAL, address, now)
        epoch, revision = (1, self._decoy(address.username, now)) if user is None else (user.epoch, next_revision(user))
        return Start(address.device_id, nonce, epoch, revision, now)

    async def renew(self, request: KeyRequest) -> pb.KeyInfo:
        """Record the successor of a key; the possession of the new key is verified already.

        Raises:
            ServiceError: As ``Renew`` in the protos.
        """
        return await self._authority.decide(request, lambda: self._renew(request))

    async def _renew(self, request: KeyRequest) -> pb.KeyInfo:
        user = await self._authority.find_user(request.address.username)
        if user is not None and _is_repeated(request, user):
            return await self._authority.records.sign(user)
        now = self._authority.clock()
        self._authority.nonces.check(request.ca_nonce, Purpose.RENEWAL, request.address, now)
        user, parent = find_parent(user, request)
        old = read_key_request(signed_request_message(parent))
        _check_epoch(user, parent, old, request)
        self._verify(old, request, now)
        check_revision(request, user, user.epoch)
        await self._check_allowed(request, user, parent, now)
        key_info = await self._authority.commit(_change(user, parent, old, request, now))
        self._tell(7, now, revision=request.revision, superseded=parent.fingerprint.hex())
        return key_info

    def _verify(self, old: KeyRequest, request: KeyRequest, now: int) -> None:
        """Take steps 5 and 6: the same client that is on record."""
        _check_suite_not_lowered(old, request)
        endorsement_hash = step_5_hash_uploaded_public_key(old, request)
        self._tell(5, now, hash=endorsement_hash.hex(), bytes=len(endorsement_hash))
        try:
            step_6_verify_signature(old, request, endorsement_hash)
        except EndorsementError as error:
            raise errors.endorsement_refused() from error
        self._tell(6, now, device=str(request.address), old_key=old.fingerprint.hex())

    async def _check_allowed(self, request: KeyRequest, user: User, parent: RecordedKey, now: int) -> None:
        # First: a device that joins asks what became of its key by a renewal that every other check refuses.
        _check_good(parent)
        self._authority.policy.check_window(parent, now)
        self._authority.policy.check_suite(request)
        self._authority.policy.check_lifetime(request, now)
        await self._authority.check_new(request)
        self._authority.policy.check_room(user, user.epoch, now)

    def _tell(self, step: int, now: int, **facts: str | int) -> None:
        self._observer(renewal_step(step, ACTOR, now, **facts))


def _check_epoch(user: User, parent: RecordedKey, old: KeyRequest, request: KeyRequest) -> None:
    if parent.epoch != user.epoch:
        verify_signature(old, request)
        raise errors.parent_revoked()


def _check_suite_not_lowered(old: KeyRequest, request: KeyRequest) -> None:
    if request.suite.strength < old.suite.strength:
        raise errors.suite_not_allowed("a renewal never lowers the suite")


def _check_good(parent: RecordedKey) -> None:
    # Its device would take KEY_REPLACED for a theft.
    if parent.state == pb.KEY_STATE_REVOKED:
        raise errors.parent_revoked()
    if not is_good(parent):
        raise errors.key_replaced()


def _is_repeated(request: KeyRequest, user: User) -> bool:
    """Whether this very renewal succeeded before: its answer was lost."""
    known = user.find(request.fingerprint)
    return (
        known is not None
        and known.kind == pb.KEY_REQUEST_KIND_RENEW
        and known.device_id == request.address.device_id
        and known.parent_fingerprint == request.parent_fingerprint
    )


def _change(user: User, parent: RecordedKey, old: KeyRequest, request: KeyRequest, now: int) -> Change:
    """Return step 7 as the store applies it; an announced identity reset stays announced."""
    now = user.no_earlier(now)
    ended, entered = step_7_update_key_info(
        [Key(old, parent.state, parent.state_time, parent.enter_time)], request, now
    )
    return Change(
        username=request.address.username,
        epoch=request.epoch,
        revision=request.revision,
        time=now,
        actor=Actor(ActorKind.DEVICE, str(request.address)),
        reset_time=user.reset_time,
        key=recorded_key(entered.request, entered.state_time),
        endings=(Ending(ended.fingerprint, ended.state),),
        events=(EventDraft(pb.KEY_EVENT_KIND_RENEWED, entered.fingerprint, ended.fingerprint),),
    )
