"""Revocation: a key is withdrawn, with all that a compromised one vouched for (docs/spec.md, "Revocations")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.keys.v1 import key_info_pb2 as pb
from keypost_services.ca import errors
from keypost_services.ca.policy import check_next, history_of, is_good
from keypost_services.ca.store import Change, Ending, EventDraft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.protocol.revocations import Revocation
    from keypost_services.ca.audit import Actor
    from keypost_services.ca.authority import Authority
    from keypost_services.ca.policy import Policy
    from keypost_services.ca.signatories import Signatory
    from keypost_services.ca.store import RecordedKey, User

COMPROMISED = pb.REVOCATION_REASON_COMPROMISED
REVOKED = pb.KEY_STATE_REVOKED


class Revocations:
    """Withdraws keys."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    async def revoke(self, revocation: Revocation, signatory: Signatory) -> pb.KeyInfo:
        """Withdraw a key, by the word of whoever may.

        Args:
            revocation: Well-formed.
            signatory: Who signed it; verified here.

        Raises:
            ServiceError: As ``Revoke`` in the protos, and as ``signatory``.
        """
        return await self._authority.settle(lambda: self._revoke(revocation, signatory))

    async def _revoke(self, revocation: Revocation, signatory: Signatory) -> pb.KeyInfo:
        user = signatory.verify(await self._authority.find_user(revocation.address.username))
        # Who withdrew their own key may ask again: the answer may have been lost.
        if _is_repeated(revocation, user):
            return await self._authority.records.sign(user)
        now = self._authority.clock()
        signatory.check_may_act(user, now)
        key = _find_revocable(revocation, user, self._authority.policy, now)
        check_next(revocation.revision, user)
        _check_since(revocation, now)
        void = _void(revocation, user, key, self._authority.policy, now)
        return await self._authority.commit(_change(user, (key, *void), revocation, signatory.actor(user), now))


def voided(user: User, compromised: RecordedKey, since: int) -> Sequence[RecordedKey]:
    """Return the keys that become void because a key was compromised; those that are revoked already, without.

    Args:
        user: The user; a child enters later than its parent.
        compromised: The key.
        since: Since when somebody else may have had it, Unix milliseconds.
    """
    void: set[bytes] = set()
    for key in user.keys:
        parent = key.parent_fingerprint
        if parent in void or (parent == compromised.fingerprint and key.enter_time > since):
            void.add(key.fingerprint)
    return [key for key in user.keys if key.fingerprint in void and key.state != REVOKED]


def _is_repeated(revocation: Revocation, user: User) -> bool:
    """Whether the key is revoked already as the statement wants it."""
    key = user.find(revocation.fingerprint)
    return (
        key is not None
        and key.device_id == revocation.address.device_id
        and (key.state, key.reason) == (REVOKED, revocation.reason)
        # A key that turns out to have been compromised earlier is not yet revoked so.
        and (revocation.since_time == 0 or key.state_time <= revocation.since_time)
    )


def _find_revocable(revocation: Revocation, user: User, policy: Policy, now: int) -> RecordedKey:
    """Return the key; one that was revoked, or is of the history, can only turn out to be compromised."""
    key = user.find(revocation.fingerprint)
    if key is None or key.device_id != revocation.address.device_id:
        raise errors.key_ended()
    if key.state == REVOKED and revocation.reason != COMPROMISED:
        raise errors.key_ended()
    shown = _shown(user, policy, now) if revocation.reason == COMPROMISED else policy.entries_of(user, now)
    if key not in shown:
        raise errors.key_ended()
    return key


def _shown(user: User, policy: Policy, now: int) -> Sequence[RecordedKey]:
    """Return the keys in record and history: of others nobody is told any more, whatever becomes of them."""
    entries = policy.entries_of(user, now)
    return [*entries, *history_of(user, entries)]


def _check_since(revocation: Revocation, now: int) -> None:
    if revocation.since_time > now:
        raise errors.since_time_ahead("revocation.revocation.since_time")


def _void(revocation: Revocation, user: User, key: RecordedKey, policy: Policy, now: int) -> Sequence[RecordedKey]:
    """Return the keys that end with a compromised one, as far as anybody is told of them."""
    if revocation.reason != COMPROMISED:
        return ()
    shown = _shown(user, policy, now)
    return [child for child in voided(user, key, _since(key, revocation, user.no_earlier(now))) if child in shown]


def _change(user: User, ending: Sequence[RecordedKey], revocation: Revocation, actor: Actor, now: int) -> Change:
    """Return the change by which a key ends, and those that are void with it; an announced reset stays announced."""
    now = user.no_earlier(now)
    key, *void = ending
    return Change(
        username=user.username,
        epoch=user.epoch,
        revision=revocation.revision,
        time=now,
        actor=actor,
        reset_time=user.reset_time,
        endings=(
            Ending(key.fingerprint, REVOKED, revocation.reason, revocation.since_time or None),
            *(Ending(child.fingerprint, REVOKED, COMPROMISED, child.enter_time) for child in void),
        ),
        events=tuple(map(_event, ending)),
    )


def _since(key: RecordedKey, revocation: Revocation, now: int) -> int:
    """Return since when the key counts as compromised: what it did after it had ended, nobody accepts anyway."""
    since = revocation.since_time or now
    return since if is_good(key) else min(since, key.state_time)


def _event(key: RecordedKey) -> EventDraft:
    return EventDraft(pb.KEY_EVENT_KIND_REVOKED, key.fingerprint, key.fingerprint if is_good(key) else b"")
