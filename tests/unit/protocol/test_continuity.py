from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keypost.clock import DAY, MINUTE
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.continuity import Pins, check_pins, check_successor, pin
from keypost.protocol.errors import (
    EquivocationError,
    ForkDetectedError,
    GhostDeviceError,
    IdentityChangedError,
    KeyUnknownError,
    MalformedStatementError,
    RecordRegressedError,
    SuiteRefusedError,
    TreeBrokenError,
)
from keypost.protocol.key_info import REVOKED, SUPERSEDED, Key, KeyRecord, read_key_info
from keypost.protocol.key_requests import read_key_request
from keypost.protocol.suites import STRONG, WEAK
from support.clock import START, YEAR, ManualClock
from support.realm import SimulatedRealm


def follow(realm: SimulatedRealm, previous: KeyRecord) -> KeyRecord:
    return check_successor(previous, realm.key_record(previous.username), realm.constants)


def test_an_honest_history_is_followed(realm: SimulatedRealm, clock: ManualClock) -> None:
    phone = realm.enroll("alice")
    record = realm.key_record("alice")
    clock.advance(MINUTE)
    laptop = realm.approve(phone)
    record = follow(realm, record)
    clock.advance(MINUTE)
    realm.renew(phone)
    record = follow(realm, record)
    clock.advance(MINUTE)
    realm.revoke(laptop, pb.REVOCATION_REASON_COMPROMISED, clock() - 1)
    record = follow(realm, record)
    realm.reset("alice")
    assert follow(realm, record).epoch == 2


def test_of_one_revision_the_newer_is_kept(realm: SimulatedRealm, clock: ManualClock) -> None:
    realm.enroll("alice")
    older = realm.key_record("alice")
    clock.advance(MINUTE)
    newer = realm.key_record("alice")
    assert check_successor(older, newer, realm.constants) is newer
    assert check_successor(newer, older, realm.constants) is newer


def test_an_old_revision_is_served_again(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    old = realm.key_record("alice")
    realm.renew(phone)
    with pytest.raises(RecordRegressedError):
        check_successor(realm.key_record("alice"), old, realm.constants)


def test_an_old_epoch_is_served_again(realm: SimulatedRealm) -> None:
    realm.enroll("alice")
    realm.reset("alice")
    record = realm.key_record("alice")
    with pytest.raises(RecordRegressedError):
        check_successor(record, replace(record, epoch=1, revision=9), realm.constants)


def test_two_records_of_one_revision(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    record = realm.key_record("alice")
    realm.set_state(phone, SUPERSEDED)
    with pytest.raises(EquivocationError):
        follow(realm, record)


def test_two_records_of_one_revision_differ_in_a_signature(realm: SimulatedRealm) -> None:
    realm.enroll("alice")
    record = realm.key_record("alice")
    user = realm.users["alice"]
    request = user.keys[0].request
    signed = pb.SignedKeyRequest.FromString(request.signed.SerializeToString())
    signed.endorsement = b"other bytes"
    user.keys = (replace(user.keys[0], request=replace(request, signed=signed)),)
    with pytest.raises(EquivocationError):
        check_successor(record, replace(record, keys=user.keys), realm.constants)


def test_a_good_key_vanishes(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    laptop = realm.approve(phone)
    record = realm.key_record("alice")
    user = realm.users["alice"]
    user.revision += 1
    user.keys = tuple(key for key in user.keys if key.fingerprint != laptop.fingerprint)
    with pytest.raises(RecordRegressedError, match="vanished"):
        follow(realm, record)


def test_a_replaced_key_stays_for_the_retention(realm: SimulatedRealm, clock: ManualClock) -> None:
    phone = realm.enroll("alice")
    realm.renew(phone)
    record = realm.key_record("alice")
    user = realm.users["alice"]
    user.history, user.keys, user.revision = (user.keys[0].request,), user.keys[1:], user.revision + 1
    clock.advance(realm.constants.retention - 1)
    with pytest.raises(RecordRegressedError, match="vanished"):
        follow(realm, record)
    clock.advance(1)
    follow(realm, record)


def test_an_entry_goes_back(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    laptop = realm.approve(phone)
    realm.revoke(laptop)
    record = realm.key_record("alice")
    realm.users["alice"].revision += 1
    realm.set_state(laptop, pb.KEY_STATE_GOOD)
    with pytest.raises(RecordRegressedError, match="earlier state"):
        follow(realm, record)


def test_an_end_is_never_put_off(realm: SimulatedRealm, clock: ManualClock) -> None:
    laptop = realm.approve(realm.enroll("alice"))
    realm.revoke(laptop)
    record = realm.key_record("alice")
    clock.advance(1)
    realm.revoke(laptop)
    with pytest.raises(RecordRegressedError, match="later"):
        follow(realm, record)
    realm.revoke(laptop, pb.REVOCATION_REASON_RETIRED, clock() - 1)
    with pytest.raises(RecordRegressedError, match="reason"):
        follow(realm, record)


def test_a_revoked_key_can_turn_out_to_be_compromised_and_not_the_other_way_round(
    realm: SimulatedRealm, clock: ManualClock
) -> None:
    laptop = realm.approve(realm.enroll("alice"))
    realm.revoke(laptop, pb.REVOCATION_REASON_LOST)
    lost, ended = realm.key_record("alice"), clock()
    clock.advance(1)
    realm.revoke(laptop, pb.REVOCATION_REASON_COMPROMISED, ended)
    compromised = follow(realm, lost)
    realm.revoke(laptop, pb.REVOCATION_REASON_LOST, ended)
    with pytest.raises(RecordRegressedError, match="reason"):
        follow(realm, compromised)


def test_a_superseded_key_may_turn_out_to_have_been_compromised_before(
    realm: SimulatedRealm, clock: ManualClock
) -> None:
    phone = realm.enroll("alice")
    clock.advance(10)
    realm.renew(phone)
    record = realm.key_record("alice")
    clock.advance(1)
    realm.revoke(phone, pb.REVOCATION_REASON_COMPROMISED)
    with pytest.raises(RecordRegressedError, match="later"):
        follow(realm, record)
    realm.set_state(phone, REVOKED, pb.REVOCATION_REASON_COMPROMISED, clock() - 5)
    follow(realm, record)


def test_a_ghost_device_was_there_all_along(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    realm.user("alice").revision = 2
    record = realm.key_record("alice")
    realm.approve(phone, revision=2)
    realm.user("alice").revision = 3
    with pytest.raises(GhostDeviceError):
        follow(realm, record)


def test_first_contact_and_an_unbroken_tree_are_silent(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    pins = check_pins(None, realm.key_record("alice"))
    laptop = realm.approve(phone)
    renewed = realm.renew(phone)
    pins = check_pins(pins, realm.key_record("alice"))
    assert set(pins.members) == {phone.fingerprint, laptop.fingerprint, renewed.fingerprint}
    assert Pins.from_bytes(pins.to_bytes()) == pins


def test_pins_remember_what_the_record_forgot(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    first = realm.renew(phone)
    pins = pin(realm.key_record("alice"))
    second = realm.renew(first)
    user = realm.users["alice"]
    user.history, user.keys = tuple(key.request for key in user.keys[:2]), user.keys[2:]
    assert second.fingerprint in check_pins(pins, realm.key_record("alice")).members


def test_a_new_identity_must_be_accepted(realm: SimulatedRealm) -> None:
    realm.enroll("alice")
    pins = pin(realm.key_record("alice"))
    new = realm.reset("alice")
    with pytest.raises(IdentityChangedError) as caught:
        check_pins(pins, realm.key_record("alice"))
    assert caught.value.metadata == {"username": "alice", "root": new.fingerprint.hex()}
    assert check_pins(pin(realm.key_record("alice")), realm.key_record("alice")).root == new.fingerprint


def test_another_root_in_the_same_epoch_is_another_identity(realm: SimulatedRealm) -> None:
    realm.enroll("alice")
    pins = pin(realm.key_record("alice"))
    realm.users.clear()
    realm.enroll("alice")
    with pytest.raises(IdentityChangedError):
        check_pins(pins, realm.key_record("alice"))


def test_pins_do_not_follow_an_endorsement_by_a_weak_key(realm: SimulatedRealm) -> None:
    weak = realm.enroll("alice", WEAK)
    with pytest.raises(SuiteRefusedError):
        pin(realm.key_record("alice"))
    pins = pin(realm.key_record("alice"), WEAK)
    realm.renew(weak, STRONG)
    assert check_pins(pins, realm.key_record("alice"), WEAK).root == weak.fingerprint
    with pytest.raises(IdentityChangedError):
        check_pins(pins, realm.key_record("alice"), STRONG)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(["approve", "renew", "revoke", "wait"]), max_size=7), st.data())
def test_every_honest_history_is_silent(changes: list[str], data: st.DataObject) -> None:
    clock = ManualClock()
    realm = SimulatedRealm(clock)
    devices = [realm.enroll("alice")]
    record = realm.key_record("alice")
    pins = pin(record)
    for change in changes:
        clock.advance(data.draw(st.integers(1, DAY)))
        at = data.draw(st.integers(0, len(devices) - 1))
        if change == "approve":
            devices.append(realm.approve(devices[at]))
        elif change == "renew":
            devices[at] = realm.renew(devices[at])
        elif change == "revoke" and len(devices) > 1:
            realm.revoke(devices.pop(at))
        record = follow(realm, record)
        pins = check_pins(pins, record)
        assert {key.fingerprint for key in record.good_keys(clock())} == {pair.fingerprint for pair in devices}


def test_the_request_of_an_entry_is_never_exchanged(realm: SimulatedRealm) -> None:
    """The thief of an expired key would make it good again with the CA's help."""
    phone = realm.enroll("alice")
    record = realm.key_record("alice")
    user = realm.users["alice"]
    later = read_key_request(
        realm.signed_request(phone, pb.KEY_REQUEST_KIND_ENROLL, revision=1, expire_time=START + YEAR)
    )
    user.keys, user.revision = (replace(user.keys[0], request=later),), 2
    with pytest.raises(RecordRegressedError, match="another request"):
        follow(realm, record)
    with pytest.raises(EquivocationError):
        check_pins(pin(record), realm.key_record("alice"))


def test_an_entry_never_changes_when_it_entered(realm: SimulatedRealm, clock: ManualClock) -> None:
    realm.enroll("alice")
    record = realm.key_record("alice")
    user = realm.users["alice"]
    earlier = clock() - 1
    user.keys, user.revision = (replace(user.keys[0], state_time=earlier, enter_time=earlier),), 2
    with pytest.raises(RecordRegressedError):
        follow(realm, record)


def test_a_device_vouched_for_by_one_that_had_ended_is_refused(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    laptop = realm.approve(phone)
    realm.revoke(laptop)
    record = realm.key_record("alice")
    realm.approve(laptop)
    with pytest.raises(TreeBrokenError, match="ended before"):
        follow(realm, record)


def test_another_successor_than_the_one_remembered_is_a_fork(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    first = realm.renew(phone)
    pins = pin(realm.key_record("alice"))
    user = realm.users["alice"]
    user.keys = tuple(key for key in user.keys if key.fingerprint != first.fingerprint)
    realm.record(realm.signed_request(realm.new_pair(phone.address), pb.KEY_REQUEST_KIND_RENEW, phone))
    with pytest.raises(ForkDetectedError):
        check_pins(pins, realm.key_record("alice"))


def test_a_key_outside_the_accepted_tree_speaks_for_nobody(realm: SimulatedRealm) -> None:
    """A CA slips in a key of an earlier epoch, which no tree of the present has to explain."""
    realm.enroll("alice")
    realm.reset("alice")
    pins = pin(realm.key_record("alice"))
    ghost = realm.new_pair(realm.new_address("alice"))
    realm.record(realm.signed_request(ghost, pb.KEY_REQUEST_KIND_ENROLL, epoch=1))
    realm.revoke(ghost)
    record = realm.key_record("alice")
    pins = check_pins(pins, record)
    with pytest.raises(KeyUnknownError):
        pins.check_known(record.get(ghost.fingerprint))


def test_keys_of_an_identity_accepted_before_stay_known(realm: SimulatedRealm) -> None:
    old = realm.enroll("alice")
    pins = pin(realm.key_record("alice"))
    new = realm.reset("alice")
    record = realm.key_record("alice")
    pins = pin(record, previous=pins)
    for pair in (old, new):
        pins.check_known(record.get(pair.fingerprint))


def test_a_user_not_looked_up_for_long_is_followed_again(realm: SimulatedRealm, clock: ManualClock) -> None:
    """The key that was good then has been renewed meanwhile, and has left the record for the history."""
    phone = realm.enroll("alice")
    record = realm.key_record("alice")
    clock.advance(60 * DAY)
    realm.renew(phone)
    user = realm.users["alice"]
    user.history, user.keys = (user.keys[0].request,), user.keys[1:]
    clock.advance(-1)
    with pytest.raises(RecordRegressedError, match="vanished"):
        check_successor(record, replace(realm_record(realm, clock, 1), this_update=clock()), realm.constants)
    clock.advance(1)
    assert follow(realm, record).revision == 2


def realm_record(realm: SimulatedRealm, clock: ManualClock, later: int) -> KeyRecord:
    """Return the record as it stands a little later."""
    clock.advance(later)
    record = realm.key_record("alice")
    clock.advance(-later)
    return record


def test_ended_keys_leave_a_record_of_the_same_revision(realm: SimulatedRealm, clock: ManualClock) -> None:
    phone = realm.enroll("alice")
    realm.renew(phone)
    before = realm.key_record("alice")
    user = realm.users["alice"]
    user.history, user.keys = (user.keys[0].request,), user.keys[1:]
    clock.advance(realm.constants.retention - 1)
    with pytest.raises(EquivocationError):
        follow(realm, before)
    clock.advance(1)
    after = follow(realm, before)
    assert check_successor(after, before, realm.constants) is after


def test_a_good_key_left_out_at_the_same_revision_is_equivocation(realm: SimulatedRealm, clock: ManualClock) -> None:
    laptop = realm.approve(realm.enroll("alice"))
    before = realm.key_record("alice")
    user = realm.users["alice"]
    user.keys = tuple(key for key in user.keys if key.fingerprint != laptop.fingerprint)
    clock.advance(realm.constants.retention)
    with pytest.raises(EquivocationError):
        follow(realm, before)


def leave(realm: SimulatedRealm, clock: ManualClock) -> Key:
    """Have the first key, which has ended, leave the record for the history, and return it."""
    clock.advance(realm.constants.retention)
    user = realm.users["alice"]
    left = user.keys[0]
    user.history, user.keys = (left.request,), user.keys[1:]
    return left


def test_a_key_comes_back_from_the_history_when_it_was_compromised(realm: SimulatedRealm, clock: ManualClock) -> None:
    phone = realm.enroll("alice")
    realm.renew(phone)
    user = realm.users["alice"]
    old = leave(realm, clock)
    record = realm.key_record("alice")
    clock.advance(1)
    user.history, user.keys = (), (old, *user.keys)
    realm.revoke(phone, pb.REVOCATION_REASON_COMPROMISED, old.state_time)
    assert follow(realm, record).revision == 3


def test_a_key_of_the_history_never_comes_back_good(realm: SimulatedRealm, clock: ManualClock) -> None:
    """Whoever found the laptop that was lost long ago has the CA, too."""
    laptop = realm.enroll("alice")
    realm.approve(laptop)
    realm.revoke(laptop)
    lost = leave(realm, clock)
    record = realm.key_record("alice")
    user = realm.users["alice"]
    good = replace(lost, state=pb.KEY_STATE_GOOD, state_time=lost.enter_time, reason=pb.REVOCATION_REASON_UNSPECIFIED)
    user.history, user.keys, user.revision = (), (good, *user.keys), user.revision + 1
    with pytest.raises(RecordRegressedError, match="came back"):
        follow(realm, record)


def test_a_key_of_the_history_did_not_end_of_late(realm: SimulatedRealm, clock: ManualClock) -> None:
    phone = realm.enroll("alice")
    realm.renew(phone)
    old = leave(realm, clock)
    record = realm.key_record("alice")
    user = realm.users["alice"]
    user.history, user.keys, user.revision = (), (old, *user.keys), user.revision + 1
    assert follow(realm, record)
    realm.set_state(phone, SUPERSEDED, since=old.state_time + 1)
    with pytest.raises(RecordRegressedError, match="came back"):
        follow(realm, record)


def test_a_key_of_the_history_vouches_for_nobody_any_more(realm: SimulatedRealm, clock: ManualClock) -> None:
    laptop = realm.enroll("alice")
    realm.approve(laptop)
    realm.revoke(laptop)
    leave(realm, clock)
    record = realm.key_record("alice")
    realm.approve(laptop)
    with pytest.raises(TreeBrokenError, match="ended before"):
        follow(realm, record)


def test_nor_does_it_vouch_for_a_key_that_is_shown_in_the_history_alone(
    realm: SimulatedRealm, clock: ManualClock
) -> None:
    laptop = realm.enroll("alice")
    realm.approve(laptop)
    realm.revoke(laptop)
    leave(realm, clock)
    record = realm.key_record("alice")
    ghost = realm.approve(laptop)
    realm.renew(ghost)
    user = realm.users["alice"]
    user.history, user.keys = (*user.history, user.keys[-2].request), (*user.keys[:-2], user.keys[-1])
    with pytest.raises(TreeBrokenError, match="ended before"):
        follow(realm, record)


def test_a_ghost_does_not_hide_in_the_history(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    realm.user("alice").revision = 2
    record = realm.key_record("alice")
    ghost = realm.approve(phone, revision=2)
    realm.user("alice").revision = 3
    realm.renew(ghost)
    user = realm.users["alice"]
    user.history, user.keys = (user.keys[1].request,), (user.keys[0], user.keys[2])
    with pytest.raises(GhostDeviceError):
        follow(realm, record)


def seen(realm: SimulatedRealm, reset_time: int) -> KeyRecord:
    key_info = realm.key_info("alice", reset_time=reset_time)
    return read_key_info(key_info, trust=realm.trust(), username="alice", now=realm.clock())


def test_an_announced_reset_is_read_and_followed(realm: SimulatedRealm, clock: ManualClock) -> None:
    realm.enroll("alice")
    before = realm.key_record("alice")
    realm.user("alice").revision += 1
    announced = seen(realm, clock() + DAY)
    assert (before.reset_time, announced.reset_time) == (0, clock() + DAY)
    assert check_successor(before, announced, realm.constants) is announced
    realm.user("alice").revision += 1
    assert check_successor(announced, seen(realm, 0), realm.constants).reset_time == 0


@pytest.mark.parametrize("times", [(0, START), (START, 0), (START, START + 1)])
def test_at_one_revision_nobody_is_told_another_time_of_a_reset(realm: SimulatedRealm, times: tuple[int, int]) -> None:
    realm.enroll("alice")
    one, other = (seen(realm, time) for time in times)
    with pytest.raises(EquivocationError):
        check_successor(one, other, realm.constants)


def test_a_reset_is_not_announced_for_a_time_before_all_times(realm: SimulatedRealm) -> None:
    realm.enroll("alice")
    with pytest.raises(MalformedStatementError):
        seen(realm, -1)
