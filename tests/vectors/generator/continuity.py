"""Vectors of key continuity: which record may follow which, and what pins let pass."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keypost.clock import DAY, HOUR, MINUTE
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.key_info import GOOD, REVOKED, SUPERSEDED
from keypost.protocol.key_requests import read_key_request
from keypost.protocol.suites import STRONG, WEAK, Suite
from support.clock import START, ManualClock
from support.realm import SimulatedRealm
from vectors.generator.files import VectorFile
from vectors.generator.user_keys import COMPROMISED, LOST, TRUST, user_keys_file

if TYPE_CHECKING:
    from keypost.protocol.key_info import Key
    from keypost.protocol.key_requests import DeviceKeyPair
    from support.realm import User

RETENTION = 60 * DAY
ENROLL = pb.KEY_REQUEST_KIND_ENROLL


class History:
    """A user's record before and after, under a clock that moves."""

    def __init__(self, suite: Suite = WEAK) -> None:
        self.clock = ManualClock()
        self.realm = SimulatedRealm(self.clock)
        self.root = self.realm.enroll("alice", suite)
        self.seen: list[dict[str, Any]] = []

    def see(self, **changes: Any) -> History:
        """Take a look at the record as it stands, with ``changes`` in its statement."""
        key_info = self.realm.key_info("alice", **changes)
        self.seen.append({"now": self.clock(), "key_info": key_info.SerializeToString().hex()})
        return self

    def drop(self, pair: DeviceKeyPair) -> None:
        """Let a key vanish from the record, into the history."""
        user = self.realm.user("alice")
        user.history += tuple(key.request for key in user.keys if key.fingerprint == pair.fingerprint)
        user.keys = tuple(key for key in user.keys if key.fingerprint != pair.fingerprint)

    def change(self) -> None:
        """Raise the revision."""
        self.realm.user("alice").revision += 1

    def pair(self, check: str, minimum: Suite | None = None) -> dict[str, Any]:
        """Return the two records that were seen, as a case's input."""
        previous, current = self.seen
        extra = {"minimum_suite": minimum.name} if minimum else {}
        return {"check": check, "username": "alice", "previous": previous, "current": current, **extra}


def continuity_file() -> VectorFile:
    file = VectorFile(
        "continuity",
        "Two records of one user as a client sees them, one after the other, each right in itself. `successor`: may "
        "the second follow the first, and which is kept. `pins`: the first is pinned, the second must descend from it.",
        "Continuity",
        shared=user_keys_file().shared,
    )
    assert TRUST.constants.retention == RETENTION
    _successors(file)
    _back_from_history(file)
    _trimmed(file)
    _aged(file)
    _regressions(file)
    _exchanged(file)
    _states_gone_back(file)
    _vanished(file)
    _ghosts(file)
    _pins(file)
    return file


def _successors(file: VectorFile) -> None:
    h = History().see()
    h.clock.advance(MINUTE)
    file.good("the same revision, made later", **h.see().pair("successor"), keep="current")
    h = History()
    h.clock.advance(MINUTE)
    h.see()
    h.clock.advance(-MINUTE)
    file.good("the same revision, made earlier", **h.see().pair("successor"), keep="previous")
    h = History().see()
    h.realm.renew(h.root)
    file.good("a renewal", **h.see().pair("successor"), keep="current")
    h = History().see()
    h.realm.revoke(h.root)
    file.good("a revocation", **h.see().pair("successor"), keep="current")
    h = History().see()
    h.realm.reset("alice", WEAK)
    file.good("a reset", **h.see().pair("successor"), keep="current")
    h = History()
    h.realm.renew(h.root)
    h.see()
    h.clock.advance(HOUR)
    h.realm.revoke(h.root, COMPROMISED, since=h.clock() - 2 * HOUR)
    file.good("a superseded key is revoked, earlier", **h.see().pair("successor"), keep="current")
    h = History()
    h.realm.renew(h.root)
    h.see()
    h.clock.advance(RETENTION)
    h.change()
    h.drop(h.root)
    file.good("a superseded key vanishes after the retention", **h.see().pair("successor"), keep="current")
    h = History().see()
    h.change()
    announced = h.see(reset_time=h.clock() + DAY).pair("successor")
    file.good("an identity reset is announced", **announced, keep="current")
    h = History().see(reset_time=START)
    h.change()
    file.good("an identity reset is called off", **h.see().pair("successor"), keep="current")


def _back_from_history(file: VectorFile) -> None:
    h = History()
    second = h.realm.renew(h.root)
    h.clock.advance(RETENTION)
    kept = h.realm.user("alice").keys
    h.drop(h.root)
    h.see()
    user = h.realm.user("alice")
    user.history, user.keys = (), kept
    h.realm.revoke(h.root, COMPROMISED, since=START)
    name = "a key comes back from the history: it was compromised"
    file.good(name, **h.see().pair("successor"), keep="current")
    assert h.realm.key_record("alice").get(second.fingerprint).is_good
    h, lost, user = _lost_long_ago()
    good = replace(lost, state=pb.KEY_STATE_GOOD, state_time=lost.enter_time, reason=pb.REVOCATION_REASON_UNSPECIFIED)
    user.history, user.keys, user.revision = (), (good, *user.keys), user.revision + 1
    file.fails("RECORD_REGRESSED", "a key of the history is good again", **h.see().pair("successor"))
    h, *_ = _lost_long_ago()
    h.realm.approve(h.root)
    file.fails("TREE_BROKEN", "a key of the history vouches for another", **h.see().pair("successor"))


def _lost_long_ago() -> tuple[History, Key, User]:
    """Return a history whose first device was revoked, and has left the record; and its key, and the user."""
    h = History(STRONG)
    h.realm.approve(h.root)
    h.realm.revoke(h.root)
    lost = h.realm.user("alice").keys[0]
    h.clock.advance(RETENTION)
    h.drop(h.root)
    return h.see(), lost, h.realm.user("alice")


def _trimmed(file: VectorFile) -> None:
    h = History()
    second = h.realm.renew(h.root)
    third = h.realm.renew(second)
    h.clock.advance(RETENTION)
    h.drop(h.root)
    h.see()
    h.realm.renew(third)
    h.drop(second)
    # The asker named the third key: it holds the root and the second one.
    h.realm.user("alice").history = ()
    file.good("a history without what is held", **h.see().pair("successor"), keep="current")
    h = History().see()
    second = h.realm.renew(h.root)
    h.realm.renew(second)
    h.clock.advance(RETENTION)
    h.drop(h.root)
    h.drop(second)
    h.realm.user("alice").history = ()
    file.fails("TREE_BROKEN", "a history with a hole: nobody holds what is left out", **h.see().pair("successor"))


def _aged(file: VectorFile) -> None:
    h = History().see()
    h.clock.advance(RETENTION)
    h.realm.renew(h.root)
    h.drop(h.root)
    file.good("a key that was good, renewed and gone since", **h.see().pair("successor"), keep="current")
    h = History()
    h.realm.renew(h.root)
    h.see()
    h.clock.advance(RETENTION)
    h.drop(h.root)
    file.good("an ended key leaves by time, at the same revision", **h.see().pair("successor"), keep="current")
    h = History()
    h.realm.renew(h.root)
    h.see()
    h.clock.advance(RETENTION - 1)
    h.drop(h.root)
    file.fails("EQUIVOCATION", "an ended key leaves too early, at the same revision", **h.see().pair("successor"))


def _regressions(file: VectorFile) -> None:
    h = History()
    h.change()
    h.see()
    file.fails("RECORD_REGRESSED", "a lower revision", **h.see(revision=1).pair("successor"))
    h = History()
    h.realm.reset("alice", WEAK)
    h.see()
    old = SimulatedRealm(h.clock)
    old.enroll("alice", WEAK)
    old.user("alice").revision = 3
    h.realm = old
    file.fails("RECORD_REGRESSED", "a lower epoch", **h.see().pair("successor"))
    h = History().see()
    h.realm.set_state(h.root, REVOKED, LOST)
    file.fails("EQUIVOCATION", "one revision, two states", **h.see().pair("successor"))
    h = History().see()
    h.realm = SimulatedRealm(h.clock)
    h.realm.new_private_key(WEAK)
    h.realm.enroll("alice", WEAK)
    file.fails("EQUIVOCATION", "one revision, two keys", **h.see().pair("successor"))
    for name, before, after in (("announced", 0, START), ("put off", START, START + DAY), ("hidden", START, 0)):
        case = History().see(reset_time=before).see(reset_time=after).pair("successor")
        file.fails("EQUIVOCATION", f"one revision, an identity reset {name}", **case)


def _exchanged(file: VectorFile) -> None:
    h = History().see()
    later = h.realm.signed_request(h.root, ENROLL, revision=1, expire_time=h.clock() + 300 * DAY)
    user = h.realm.user("alice")
    user.keys = (replace(user.keys[0], request=read_key_request(later)),)
    h.change()
    file.fails("RECORD_REGRESSED", "a key enters by another request", **h.see().pair("successor"))
    h = History()
    h.clock.advance(1)
    h.see()
    user = h.realm.user("alice")
    user.keys = (replace(user.keys[0], state_time=h.clock(), enter_time=h.clock()),)
    h.change()
    file.fails("RECORD_REGRESSED", "a key entered at another time", **h.see().pair("successor"))
    h = History(STRONG)
    device = h.realm.approve(h.root)
    h.realm.revoke(device)
    h.see()
    h.realm.approve(device)
    file.fails("TREE_BROKEN", "approved by a key that had ended before", **h.see().pair("successor"))


def _states_gone_back(file: VectorFile) -> None:
    steps: dict[str, tuple[tuple[Any, Any, int], tuple[Any, Any, int]]] = {
        "superseded, then good": ((SUPERSEDED, 0, 0), (GOOD, 0, 0)),
        "revoked, then good": ((REVOKED, LOST, 0), (GOOD, 0, 0)),
        "revoked, then superseded": ((REVOKED, LOST, 0), (SUPERSEDED, 0, 0)),
        "superseded, then superseded later": ((SUPERSEDED, 0, 0), (SUPERSEDED, 0, 1)),
        "revoked, then revoked later": ((REVOKED, LOST, 0), (REVOKED, LOST, 1)),
        "superseded, then revoked later": ((SUPERSEDED, 0, 0), (REVOKED, LOST, 1)),
        "compromised, then lost": ((REVOKED, COMPROMISED, 0), (REVOKED, LOST, 0)),
    }
    for name, ((state, reason, _), (then, then_reason, later)) in steps.items():
        h = History()
        h.realm.set_state(h.root, state, reason)
        h.see()
        h.change()
        ended = h.clock() + later
        h.clock.advance(later)
        h.realm.set_state(h.root, then, then_reason, since=ended)
        file.fails("RECORD_REGRESSED", name, **h.see().pair("successor"))
    h = History()
    h.realm.set_state(h.root, REVOKED, LOST)
    h.see()
    h.change()
    h.realm.set_state(h.root, REVOKED, COMPROMISED, since=h.clock() - 1)
    file.good("lost, then compromised, and since earlier", **h.see().pair("successor"), keep="current")


def _vanished(file: VectorFile) -> None:
    h = History(STRONG)
    second = h.realm.approve(h.root)
    h.see()
    h.change()
    h.drop(second)
    file.fails("RECORD_REGRESSED", "a good key vanishes", **h.see().pair("successor"))
    h = History()
    h.realm.renew(h.root)
    h.see()
    h.clock.advance(RETENTION - 1)
    h.change()
    h.drop(h.root)
    file.fails("RECORD_REGRESSED", "a superseded key vanishes too early", **h.see().pair("successor"))


def _ghosts(file: VectorFile) -> None:
    h = History(STRONG)
    h.change()
    h.change()
    h.see()
    ghost = h.realm.new_pair(h.realm.new_address("alice"))
    h.realm.record(h.realm.signed_request(ghost, pb.KEY_REQUEST_KIND_APPROVE, h.root, revision=2))
    h.realm.user("alice").revision = 4
    file.fails("GHOST_DEVICE", "a device that claims to have been there", **h.see().pair("successor"))


def _pins(file: VectorFile) -> None:
    h = History(STRONG).see()
    h.realm.renew(h.root)
    file.good("pins: a renewal", **h.see().pair("pins", STRONG), root=h.root.fingerprint.hex())
    h = History(STRONG).see()
    h.realm.approve(h.root)
    file.good("pins: an approved device", **h.see().pair("pins", STRONG), root=h.root.fingerprint.hex())
    h = History(STRONG).see()
    h.realm.reset("alice")
    file.fails("IDENTITY_CHANGED", "pins: a reset", **h.see().pair("pins", STRONG))
    h = History(STRONG).see()
    h.realm = SimulatedRealm(h.clock)
    h.realm.new_private_key(STRONG)
    h.realm.enroll("alice")
    file.fails("IDENTITY_CHANGED", "pins: another root in the same epoch", **h.see().pair("pins", STRONG))
    h = History(WEAK).see().see()
    file.fails("SUITE_REFUSED", "pins: no key reaches the minimum", **h.pair("pins", STRONG))
    file.good("pins: weak keys are good enough", **h.pair("pins", WEAK), root=h.root.fingerprint.hex())
    h = History(WEAK)
    strong = h.realm.renew(h.root, STRONG)
    h.see().see()
    name = "pins: the child of a weak key counts as a root"
    file.good(name, **h.pair("pins", STRONG), root=strong.fingerprint.hex())
