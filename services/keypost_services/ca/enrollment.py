"""Enrolment: the first key of a device enters without a parent, after an announced reset too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.identifiers import Address
from keypost.protocol.key_requests import ROOT_KINDS
from keypost_services.ca.audit import Actor, ActorKind
from keypost_services.ca.authority import Start, draw_device_id
from keypost_services.ca.convert import recorded_key
from keypost_services.ca.nonces import Purpose
from keypost_services.ca.policy import (
    check_needs_no_approval,
    check_new_device,
    check_revision,
    enrollment_epoch,
    enrollment_kind,
    is_good,
    next_revision,
)
from keypost_services.ca.store import (
    Change,
    Ending,
    EventDraft,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost.protocol.key_requests import KeyRequest
    from keypost_services.ca.authority import Authority
    from keypost_services.ca.sign_in.admission import Admission
    from keypost_services.ca.sign_in.port import Grant, Proof
    from keypost_services.ca.store import User


class Enrollment:
    """Records first keys of devices."""

    def __init__(self, authority: Authority, sign_in: Admission, random: Callable[[int], bytes]) -> None:
        """Take the parts.

        Args:
            authority: Store, policy and the like.
            sign_in: Decides who may enrol.
            random: Returns that many random bytes.
        """
        self._authority = authority
        self._sign_in = sign_in
        self._random = random

    async def begin(self, username: str, proof: Proof) -> Start:
        """Draw a device id and a nonce; stores nothing.

        Raises:
            ServiceError: SIGN_IN_REFUSED or SIGN_IN_UNAVAILABLE.
        """
        await self._sign_in.admit(username, proof, None)
        now = self._authority.clock()
        user = await self._authority.find_user(username)
        address = Address(username, draw_device_id(self._random))
        nonce = self._authority.nonces.issue(Purpose.ENROLLMENT, address, now)
        epoch, kind = enrollment_epoch(user, now), enrollment_kind(user, now)
        return Start(address.device_id, nonce, epoch, next_revision(user), now, kind)

    async def enroll(self, request: KeyRequest, proof: Proof) -> pb.KeyInfo:
        """Record the key of a request whose possession is verified.

        Raises:
            ServiceError: As ``Enroll`` in the protos.
        """
        return await self._authority.decide(request, lambda: self._enroll(request, proof))

    async def _enroll(self, request: KeyRequest, proof: Proof) -> pb.KeyInfo:
        grant = await self._sign_in.admit(request.address.username, proof, request.fingerprint)
        user = await self._authority.find_user(request.address.username)
        if user is not None and _is_repeated(request, grant, user):
            return await self._authority.records.sign(user)
        self._sign_in.check_unused(request.address.username, grant)
        now = self._authority.clock()
        self._authority.nonces.check(request.ca_nonce, Purpose.ENROLLMENT, request.address, now)
        check_needs_no_approval(request, user, now)
        self._authority.policy.check_suite(request)
        self._authority.policy.check_lifetime(request, now)
        await self._authority.check_new(request)
        if user is not None:
            check_new_device(request, user)
            self._authority.policy.check_room(user, enrollment_epoch(user, now), now)
        check_revision(request, user, enrollment_epoch(user, now))
        return await self._authority.commit(_change(request, grant, user, now))


def _is_repeated(request: KeyRequest, grant: Grant, user: User) -> bool:
    """Whether this very enrolment succeeded before: its answer was lost."""
    known = user.find(request.fingerprint)
    if known is None or known.kind not in ROOT_KINDS:
        return False
    if grant.code_hash is not None:
        return grant.used_fingerprint == request.fingerprint
    return known.device_id == request.address.device_id


def _change(request: KeyRequest, grant: Grant, user: User | None, now: int) -> Change:
    """Return the change by which the key becomes the root of an epoch; all earlier keys end with the old one."""
    now = now if user is None else user.no_earlier(now)
    earlier = [] if user is None else [key for key in user.keys if key.state != pb.KEY_STATE_REVOKED]
    good = [key.fingerprint for key in earlier if is_good(key)]
    reset = pb.REVOCATION_REASON_RESET
    return Change(
        username=request.address.username,
        epoch=request.epoch,
        revision=request.revision,
        time=now,
        actor=Actor(ActorKind.SIGN_IN, grant.kind),
        key=recorded_key(request, now),
        endings=tuple(Ending(key.fingerprint, pb.KEY_STATE_REVOKED, reset) for key in earlier),
        events=(
            *(EventDraft(pb.KEY_EVENT_KIND_REVOKED, key, key) for key in good),
            EventDraft(pb.KEY_EVENT_KIND_ENROLLED, request.fingerprint),
        ),
        code_hash=grant.code_hash,
        identity=grant.identity,
    )
