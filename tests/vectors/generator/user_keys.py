"""Vectors of key info: the signed record of a user's keys."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keypost.clock import DAY, HOUR, MINUTE
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import REALM_TRUST
from keypost.protocol.key_info import GOOD, REVOKED, SUPERSEDED, KeyRecord, read_key_info, sign_user_keys
from keypost.protocol.key_requests import read_key_request
from keypost.protocol.signing import sign_statement
from keypost.protocol.suites import STRONG, WEAK
from support.clock import START, ManualClock
from support.realm import LIFETIME, SimulatedRealm, seeded_signer
from vectors.generator.files import VectorFile, flipped

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost.protocol.key_requests import DeviceKeyPair

COMPROMISED, LOST = pb.REVOCATION_REASON_COMPROMISED, pb.REVOCATION_REASON_LOST
APPROVE, RENEW, ENROLL = pb.KEY_REQUEST_KIND_APPROVE, pb.KEY_REQUEST_KIND_RENEW, pb.KEY_REQUEST_KIND_ENROLL
TRUST = SimulatedRealm().trust()
NO_REASON = pb.REVOCATION_REASON_UNSPECIFIED


def user_keys_file() -> VectorFile:
    file = VectorFile(
        "user_keys",
        "A KeyInfo as the directory returns it for `username` at `now`, under the shared SignedRealmTrust. `good` are "
        "the keys that may be sealed to, `void` those that a compromised key vouched for after it was compromised.",
        "Key info; The tree",
        shared={
            "realm": TRUST.realm,
            "root_keys": [key.hex() for key in TRUST.root_keys],
            "realm_trust": TRUST.signed.SerializeToString().hex(),
        },
    )
    _good_records(file)
    _bad_signatures(file)
    _not_fresh(file)
    _malformed(file)
    _malformed_keys(file)
    _broken_trees(file)
    _late_parents(file)
    _foreign_epochs(file)
    _bad_times(file)
    _ended_parents(file)
    return file


def case_input(key_info: pb.KeyInfo, now: int = START, username: str = "alice") -> dict[str, Any]:
    """Return what a client has when it reads key info."""
    return {"username": username, "now": now, "key_info": key_info.SerializeToString().hex()}


def describe(record: KeyRecord, now: int) -> dict[str, Any]:
    """Return what a record says."""
    states = {GOOD: "good", SUPERSEDED: "superseded", REVOKED: "revoked"}
    return {
        "epoch": record.epoch,
        "revision": record.revision,
        "root": record.tree().root.hex(),
        "keys": [
            {"address": str(key.address), "fingerprint": key.fingerprint.hex(), "state": states[key.state]}
            for key in record.keys
        ],
        "good": [key.fingerprint.hex() for key in record.good_keys(now)],
        "void": [key.fingerprint.hex() for key in record.keys if record.is_void(key)],
    }


def _add_good(file: VectorFile, name: str, key_info: pb.KeyInfo, now: int = START) -> None:
    record = read_key_info(key_info, trust=TRUST, username="alice", now=now)
    file.good(name, **case_input(key_info, now), **describe(record, now))


def _good_records(file: VectorFile) -> None:
    clock = ManualClock()
    realm = SimulatedRealm(clock)
    root = realm.enroll("alice")
    _add_good(file, "one key", realm.key_info("alice"))
    _add_good(file, "a millisecond before it ends", realm.key_info("alice"), START + HOUR - 1)
    _add_good(file, "made five minutes ahead", realm.key_info("alice"), START - 5 * MINUTE)
    second = realm.approve(root)
    realm.renew(root)
    _add_good(file, "a second device, and the first one renewed", realm.key_info("alice"))
    realm.revoke(second)
    _add_good(file, "the second device revoked", realm.key_info("alice"))
    weak = SimulatedRealm()
    weak.renew(weak.enroll("alice", WEAK))
    _add_good(file, "weak keys", weak.key_info("alice"))
    weak.reset("alice", WEAK)
    _add_good(file, "after a reset", weak.key_info("alice"))
    _add_good(file, "the root of the epoch in the history", _with_history())
    expired = SimulatedRealm()
    expired.enroll("alice", WEAK, expire_time=START)
    _add_good(file, "an expired key", expired.key_info("alice"))
    _void(file)


def _with_history() -> pb.KeyInfo:
    realm = SimulatedRealm()
    realm.renew(realm.enroll("alice", WEAK))
    user = realm.user("alice")
    user.history, user.keys = (user.keys[0].request,), user.keys[1:]
    return realm.key_info("alice")


def _void(file: VectorFile) -> None:
    clock = ManualClock()
    realm = SimulatedRealm(clock)
    root = realm.enroll("alice")
    clock.advance(HOUR)
    first = realm.approve(root)
    clock.advance(HOUR)
    realm.approve(first)
    realm.revoke(root, COMPROMISED, since=START + HOUR - 1)
    _add_good(file, "a compromised key, and what it vouched for after", realm.key_info("alice"), clock())
    realm.set_state(root, REVOKED, COMPROMISED, since=START + HOUR)
    _add_good(file, "a compromised key, and what it vouched for before", realm.key_info("alice"), clock())


def _bad_signatures(file: VectorFile) -> None:
    realm = SimulatedRealm()
    realm.enroll("alice", WEAK)
    good = realm.key_info("alice").record
    edits: dict[str, Callable[[pb.SignedUserKeys], None]] = {
        "an altered statement": lambda signed: setattr(signed, "user_keys", flipped(signed.user_keys, -1)),
        "an altered signature": lambda signed: setattr(signed, "signature", flipped(signed.signature)),
        "no signature": lambda signed: setattr(signed, "signature", b""),
        "signed under another label": lambda signed: setattr(
            signed, "signature", sign_statement(realm.record_signer, REALM_TRUST, signed.user_keys)
        ),
    }
    for name, edit in edits.items():
        signed = pb.SignedUserKeys()
        signed.CopyFrom(good)
        edit(signed)
        file.fails("SIGNATURE_INVALID", name, **case_input(pb.KeyInfo(record=signed)))
    for name, signer in (("an unknown record key", seeded_signer(9)), ("the root key", seeded_signer(1))):
        key_info = pb.KeyInfo(record=sign_user_keys(realm.statement("alice"), signer))
        file.fails("UNKNOWN_RECORD_KEY", f"signed by {name}", **case_input(key_info))


def _not_fresh(file: VectorFile) -> None:
    realm = SimulatedRealm()
    realm.enroll("alice", WEAK)
    key_info = realm.key_info("alice")
    file.fails("RECORD_EXPIRED", "at its next_update", **case_input(key_info, START + HOUR))
    file.fails(
        "RECORD_FROM_FUTURE", "made more than five minutes ahead", **case_input(key_info, START - 5 * MINUTE - 1)
    )
    file.fails("UNKNOWN_RECORD_KEY", "before the record key may sign", **case_input(key_info, START - DAY - 1))
    file.fails("REALM_TRUST_REFUSED", "after the realm trust has ended", **case_input(key_info, START + 400 * DAY))
    file.fails("RECORD_REFUSED", "of another user than asked for", **case_input(key_info, username="bob"))
    file.fails("RECORD_REFUSED", "of another realm", **case_input(realm.key_info("alice", realm="evil.org")))


def _malformed(file: VectorFile) -> None:
    def add(name: str, key_info: pb.KeyInfo) -> None:
        file.fails("MALFORMED_STATEMENT", name, **case_input(key_info))

    realm = SimulatedRealm()
    old = realm.enroll("alice", WEAK)
    new = realm.renew(old)
    add("lives longer than the realm allows", realm.key_info("alice", next_update=START + HOUR + 1))
    add("ends before it begins", realm.key_info("alice", next_update=START))
    add("an entry that entered after the record's revision", realm.key_info("alice", revision=1))
    statement = realm.statement("alice")
    statement.entries.reverse()
    add("entries in another order", _sign(realm, statement))
    statement = realm.statement("alice")
    statement.entries.append(statement.entries[-1])
    add("a key twice", _sign(realm, statement))
    statement = realm.statement("alice")
    del statement.entries[:]
    add("no entries", _sign(realm, statement))
    add("a reset before all times", realm.key_info("alice", reset_time=-1))
    realm.set_state(old, GOOD)
    add("two good keys on one device", realm.key_info("alice"))
    realm.set_state(old, SUPERSEDED, LOST)
    add("a reason without a revocation", realm.key_info("alice"))
    realm.set_state(old, REVOKED)
    add("a revocation without a reason", realm.key_info("alice"))
    realm.set_state(old, pb.KEY_STATE_UNSPECIFIED)
    add("an entry without a state", realm.key_info("alice"))
    user = realm.user("alice")
    user.keys = (replace(user.keys[0], state=SUPERSEDED, state_time=0), user.keys[1])
    add("an entry without a time", realm.key_info("alice"))
    realm.set_state(old, SUPERSEDED)
    add("a good key of another epoch", realm.key_info("alice", epoch=2))
    realm.set_state(new, REVOKED, LOST)


def _sign(realm: SimulatedRealm, statement: pb.UserKeys) -> pb.KeyInfo:
    return pb.KeyInfo(record=sign_user_keys(statement, realm.record_signer))


def _malformed_keys(file: VectorFile) -> None:
    realm = SimulatedRealm()
    realm.enroll("alice", WEAK)
    realm.enroll("bob", WEAK, revision=2)
    statement = realm.statement("alice", revision=2)
    statement.entries.append(realm.user("bob").keys[0].to_entry())
    file.fails("MALFORMED_STATEMENT", "a key of another user", **case_input(_sign(realm, statement)))
    statement = realm.statement("alice")
    entry = statement.entries[0].request
    entry.possession = flipped(entry.possession, -1)
    file.fails("POSSESSION_UNPROVEN", "a key that did not ask", **case_input(_sign(realm, statement)))
    for reason, name, changes in (
        ("SUITE_UNKNOWN", "a key of an unknown suite", {"suite": 99}),
        ("KEY_REFUSED", "a key that is not of its suite", {"suite": STRONG.id}),
    ):
        statement = realm.statement("alice")
        request = pb.KeyRequest.FromString(statement.entries[0].request.key_request)
        for field, value in changes.items():
            setattr(request, field, value)
        statement.entries[0].request.key_request = request.SerializeToString()
        file.fails(reason, name, **case_input(_sign(realm, statement)))


def _broken_trees(file: VectorFile) -> None:
    realm = SimulatedRealm()
    old = realm.enroll("alice", WEAK)
    new = realm.renew(old)
    statement = realm.statement("alice")
    entry = statement.entries[1].request
    entry.endorsement = flipped(entry.endorsement, -1)
    file.fails("ENDORSEMENT_REFUSED", "a renewal that the old key did not sign", **case_input(_sign(realm, statement)))
    statement = realm.statement("alice")
    del statement.entries[0]
    file.fails("TREE_BROKEN", "a parent that nobody knows", **case_input(_sign(realm, statement)))
    realm.set_state(new, SUPERSEDED)
    realm.record(realm.signed_request(realm.new_pair(old.address, WEAK), RENEW, old))
    file.fails("FORK_DETECTED", "two successors of one key", **case_input(realm.key_info("alice")))
    realm = SimulatedRealm()
    realm.enroll("alice", WEAK)
    realm.enroll("alice", WEAK)
    file.fails("TREE_BROKEN", "two roots", **case_input(realm.key_info("alice")))
    realm = SimulatedRealm()
    realm.revoke(realm.enroll("alice", WEAK))
    file.fails("TREE_BROKEN", "no key of the epoch", **case_input(realm.key_info("alice", epoch=2)))


def _late_parents(file: VectorFile) -> None:
    realm = SimulatedRealm()
    old = realm.enroll("alice")
    realm.renew(old)
    realm.approve(old)
    name = "an approval by a key that was replaced before"
    file.fails("ENDORSEMENT_REFUSED", name, **case_input(realm.key_info("alice")))
    clock = ManualClock()
    realm = SimulatedRealm(clock)
    root = realm.enroll("alice")
    clock.advance(LIFETIME)
    device = _approve_late(realm, root)
    name = "an approval by a key that had expired"
    file.fails("ENDORSEMENT_REFUSED", name, **case_input(device, clock()))
    clock = ManualClock()
    realm = SimulatedRealm(clock)
    old = realm.enroll("alice", WEAK)
    clock.advance(LIFETIME + 180 * DAY)
    realm.renew(old)
    name = "a renewal after the renewal window"
    file.fails("ENDORSEMENT_REFUSED", name, **case_input(realm.key_info("alice"), clock()))


def _foreign_epochs(file: VectorFile) -> None:
    """An entry that no tree of the present explains must not be able to speak."""
    for name, epoch in (("a revoked key of a later epoch", 99), ("a superseded key of an earlier epoch", 1)):
        realm = SimulatedRealm()
        old = realm.enroll("alice", WEAK)
        realm.reset("alice", WEAK)
        if epoch > 1:
            ghost = realm.new_pair(realm.new_address("alice"), WEAK)
            realm.record(realm.signed_request(ghost, pb.KEY_REQUEST_KIND_ENROLL, epoch=epoch))
            realm.revoke(ghost)
        else:
            realm.set_state(old, SUPERSEDED)
        file.fails("MALFORMED_STATEMENT", name, **case_input(realm.key_info("alice")))


def _bad_times(file: VectorFile) -> None:
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("a key that ended after the record was made", {"state": SUPERSEDED, "state_time": START + 1}),
        ("a key that entered after the record was made", {"state_time": START + 1, "enter_time": START + 1}),
        ("a good key that is not good since it entered", {"state_time": START - 1}),
        ("an entry that never entered", {"state": SUPERSEDED, "enter_time": 0}),
    )
    for name, changes in cases:
        realm = SimulatedRealm()
        realm.enroll("alice", WEAK)
        user = realm.user("alice")
        user.keys = (replace(user.keys[0], **changes),)
        file.fails("MALFORMED_STATEMENT", name, **case_input(realm.key_info("alice")))
    realm = SimulatedRealm()
    realm.enroll("alice", WEAK, expire_time=START + realm.constants.longest_key_lifetime + 1)
    file.fails("MALFORMED_STATEMENT", "a key that lives too long", **case_input(realm.key_info("alice")))


def _ended_parents(file: VectorFile) -> None:
    clock = ManualClock()
    realm = SimulatedRealm(clock)
    device = realm.approve(realm.enroll("alice"))
    realm.revoke(device)
    clock.advance(1)
    realm.approve(device)
    file.fails("ENDORSEMENT_REFUSED", "an approval by a revoked key", **case_input(realm.key_info("alice"), clock()))


def _approve_late(realm: SimulatedRealm, root: DeviceKeyPair) -> pb.KeyInfo:
    realm.record(realm.signed_request(realm.new_pair(realm.new_address("alice")), APPROVE, root))
    read_key_request(realm.user("alice").keys[-1].request.signed)
    return realm.key_info("alice")
