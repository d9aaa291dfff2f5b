"""The identity reset: announced to all devices of a user, stopped by any of them, or due (docs/spec.md, "Resets")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.keys.v1 import key_info_pb2 as pb
from keypost_services.ca import errors
from keypost_services.ca.audit import Actor, ActorKind
from keypost_services.ca.policy import check_next, has_usable_device, next_revision, reset_is_announced
from keypost_services.ca.store import Change, EventDraft
from keypost_services.runtime.requests import user_not_found

if TYPE_CHECKING:
    from keypost.protocol.revocations import ResetCancellation
    from keypost_services.ca.authority import Authority
    from keypost_services.ca.sign_in.admission import Admission
    from keypost_services.ca.sign_in.port import Proof
    from keypost_services.ca.signatories import Signatory
    from keypost_services.ca.store import User


@dataclass(frozen=True)
class Announcement:
    """An announced reset: from when on it may take place, and the CA's time (Unix milliseconds)."""

    reset_time: int
    current_time: int


class Resets:
    """Announces identity resets, and calls them off; the reset itself is an enrolment."""

    def __init__(self, authority: Authority, sign_in: Admission, delay: int) -> None:
        """Take the parts.

        Args:
            authority: Store, policy and the like.
            sign_in: Decides who may act as a user.
            delay: How long after its announcement a reset may take place, milliseconds.
        """
        self._authority = authority
        self._sign_in = sign_in
        self._delay = delay

    async def request(self, username: str, proof: Proof) -> Announcement:
        """Announce a reset; while one is announced, its time stays.

        Raises:
            ServiceError: As ``RequestReset`` in the protos.
        """
        return await self._authority.settle(lambda: self._request(username, proof))

    async def cancel(self, cancellation: ResetCancellation, signatory: Signatory) -> pb.KeyInfo:
        """Call off an announced reset, by the word of a device.

        Args:
            cancellation: Well-formed.
            signatory: Who signed it; verified here.

        Raises:
            ServiceError: As ``CancelReset`` in the protos, and as ``signatory``.
        """
        return await self._authority.settle(lambda: self._cancel(cancellation, signatory))

    async def open_now(self, username: str, actor: Actor) -> pb.KeyInfo:
        """Announce a reset that may take place at once: for administrators, whose permission is checked already.

        Raises:
            ServiceError: USER_NOT_FOUND or RESET_NOT_NEEDED.
        """
        return await self._authority.settle(lambda: self._open_now(username, actor))

    async def call_off(self, username: str, actor: Actor) -> pb.KeyInfo:
        """Call off an announced reset, if one is: for administrators, whose permission is checked already.

        Raises:
            ServiceError: USER_NOT_FOUND.
        """
        return await self._authority.settle(lambda: self._call_off(username, actor))

    async def _request(self, username: str, proof: Proof) -> Announcement:
        grant = await self._sign_in.admit(username, proof, None)
        self._sign_in.check_unused(username, grant)
        now = self._authority.clock()
        user = await self._authority.find_user(username)
        if user is None or not has_usable_device(user, now):
            raise errors.reset_not_needed()
        if reset_is_announced(user, now):
            return Announcement(user.reset_time, now)
        await self._authority.commit(_change(user, now + self._delay, Actor(ActorKind.SIGN_IN, grant.kind), now))
        return Announcement(now + self._delay, now)

    async def _cancel(self, cancellation: ResetCancellation, signatory: Signatory) -> pb.KeyInfo:
        user = signatory.verify(await self._authority.find_user(cancellation.address.username))
        now = self._authority.clock()
        signatory.check_may_act(user, now)
        if user.reset_time == 0:
            return await self._authority.records.sign(user)
        check_next(cancellation.revision, user)
        return await self._authority.commit(_change(user, 0, signatory.actor(user), now))

    async def _open_now(self, username: str, actor: Actor) -> pb.KeyInfo:
        user, now = await self._find(username), self._authority.clock()
        if not has_usable_device(user, now):
            raise errors.reset_not_needed()
        if reset_is_announced(user, now) and user.reset_time <= now:
            return await self._authority.records.sign(user)
        return await self._authority.commit(_change(user, now, actor, now))

    async def _call_off(self, username: str, actor: Actor) -> pb.KeyInfo:
        user = await self._find(username)
        if user.reset_time == 0:
            return await self._authority.records.sign(user)
        return await self._authority.commit(_change(user, 0, actor, self._authority.clock()))

    async def _find(self, username: str) -> User:
        user = await self._authority.find_user(username)
        if user is None:
            raise user_not_found(username)
        return user


def _change(user: User, reset_time: int, actor: Actor, now: int) -> Change:
    """Return the change by which a reset is announced, or (0) called off."""
    announced, cancelled = pb.KEY_EVENT_KIND_RESET_ANNOUNCED, pb.KEY_EVENT_KIND_RESET_CANCELLED
    return Change(
        username=user.username,
        epoch=user.epoch,
        revision=next_revision(user),
        time=user.no_earlier(now),
        actor=actor,
        reset_time=reset_time,
        events=(EventDraft(announced if reset_time else cancelled),),
    )
