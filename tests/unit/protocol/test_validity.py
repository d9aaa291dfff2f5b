from dataclasses import replace
from typing import Any

import pytest

from keypost.clock import HOUR, MINUTE
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import (
    ClockAheadError,
    KeyExpiredError,
    KeyRevokedError,
    KeySupersededError,
    MessageTooOldError,
    NoUsableDeviceError,
    RecordExpiredError,
    SuiteRefusedError,
)
from keypost.protocol.key_requests import DeviceKeyPair
from keypost.protocol.suites import STRONG, WEAK
from keypost.protocol.validity import Policy, Times, check_can_act, check_can_open, check_can_send
from support.clock import ManualClock
from support.realm import LIFETIME, SimulatedRealm

COMPROMISED = pb.REVOCATION_REASON_COMPROMISED


def send(realm: SimulatedRealm, minimum: Any = STRONG) -> list[bytes]:
    policy = Policy(realm.constants, minimum)
    return [key.fingerprint for key in check_can_send(realm.key_record("alice"), policy, realm.clock())]


def at(name: str, time: int) -> dict[str, Any]:
    return {name: time}


def opened(
    realm: SimulatedRealm, pair: DeviceKeyPair, *, retired: bool = False, minimum: Any = STRONG, **times: Any
) -> None:
    now = realm.clock()
    record = realm.key_record(pair.address.username)
    judged = replace(Times(now, now, now, now), **times)
    check_can_open(record.get(pair.fingerprint), record, judged, Policy(realm.constants, minimum), retired=retired)


def act(realm: SimulatedRealm, pair: DeviceKeyPair) -> None:
    record = realm.key_record(pair.address.username)
    check_can_act(record.get(pair.fingerprint), record, realm.clock())


def test_all_good_devices_are_sealed_to_in_order(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    laptop = realm.approve(phone)
    tablet = realm.approve(phone)
    realm.revoke(laptop)
    ordered = sorted([phone, tablet], key=lambda pair: pair.address.device_id)
    assert send(realm) == [pair.fingerprint for pair in ordered]
    policy = Policy(realm.constants)
    keys = check_can_send(realm.key_record("alice"), policy, realm.clock(), exclude=phone.address)
    assert [key.fingerprint for key in keys] == [tablet.fingerprint]


def test_nobody_could_read_it(realm: SimulatedRealm, clock: ManualClock) -> None:
    realm.enroll("alice")
    clock.advance(LIFETIME)
    with pytest.raises(NoUsableDeviceError):
        send(realm)


def test_a_stale_record_is_not_sent_by(realm: SimulatedRealm, clock: ManualClock) -> None:
    realm.enroll("alice")
    record = realm.key_record("alice")
    with pytest.raises(RecordExpiredError):
        check_can_send(record, Policy(realm.constants), clock() + HOUR)


def test_a_weaker_suite_is_refused_and_never_lowered_to(realm: SimulatedRealm) -> None:
    weak = realm.enroll("alice", WEAK)
    with pytest.raises(SuiteRefusedError) as caught:
        send(realm)
    assert caught.value.metadata["address"] == str(weak.address)
    assert send(realm, WEAK) == [weak.fingerprint]
    with pytest.raises(SuiteRefusedError, match="minimum"):
        opened(realm, weak)
    opened(realm, weak, minimum=WEAK)


def test_a_suite_that_the_realm_does_not_allow_is_refused(realm: SimulatedRealm) -> None:
    realm.enroll("alice", WEAK)
    realm.constants = replace(realm.constants, allowed_suites=(STRONG.id,))
    with pytest.raises(SuiteRefusedError, match="realm"):
        send(realm, WEAK)


def test_who_may_act(realm: SimulatedRealm, clock: ManualClock) -> None:
    phone = realm.enroll("alice")
    clock.advance(1)
    laptop = realm.approve(phone)
    act(realm, phone)
    renewed = realm.renew(phone)
    act(realm, renewed)
    with pytest.raises(KeySupersededError):
        act(realm, phone)
    realm.revoke(laptop)
    with pytest.raises(KeyRevokedError):
        act(realm, laptop)
    clock.advance(LIFETIME)
    with pytest.raises(KeyExpiredError):
        act(realm, renewed)


def test_a_void_key_neither_acts_nor_is_opened(realm: SimulatedRealm, clock: ManualClock) -> None:
    phone = realm.enroll("alice")
    since = clock.advance(1)
    clock.advance(1)
    ghost = realm.approve(phone)
    realm.revoke(phone, COMPROMISED, since)
    with pytest.raises(KeyRevokedError):
        act(realm, ghost)
    with pytest.raises(KeyRevokedError):
        opened(realm, ghost)


def test_a_message_accepted_after_its_key_expired(realm: SimulatedRealm, clock: ManualClock) -> None:
    pair = realm.enroll("alice")
    expire_time = clock() + LIFETIME
    clock.advance(LIFETIME + HOUR)
    early: dict[str, Any] = {"session_create_time": expire_time - 1, "sign_time": expire_time - 1}
    opened(realm, pair, accept_time=expire_time - 1, **early)
    with pytest.raises(KeyExpiredError):
        opened(realm, pair, accept_time=expire_time, **early)


@pytest.mark.parametrize("late", ["sign_time", "accept_time"])
def test_a_replaced_key_is_opened_until_everybody_could_know(
    realm: SimulatedRealm, clock: ManualClock, late: str
) -> None:
    pair = realm.enroll("alice")
    realm.renew(pair)
    settled = clock() + realm.constants.settle
    early: dict[str, Any] = {"session_create_time": clock(), "sign_time": clock(), "accept_time": clock()}
    clock.advance(realm.constants.settle + HOUR)
    opened(realm, pair, **{**early, late: settled})
    with pytest.raises(KeySupersededError):
        opened(realm, pair, **{**early, late: settled + 1})


@pytest.mark.parametrize("late", ["sign_time", "accept_time"])
def test_a_revoked_key_is_opened_for_what_was_before(realm: SimulatedRealm, clock: ManualClock, late: str) -> None:
    pair = realm.enroll("alice")
    ended = clock.advance(HOUR)
    realm.revoke(pair)
    clock.advance(HOUR)
    early: dict[str, Any] = {"session_create_time": ended, "sign_time": ended, "accept_time": ended}
    opened(realm, pair, **early)
    with pytest.raises(KeyRevokedError):
        opened(realm, pair, **{**early, late: ended + 1})


def test_a_compromised_key_is_never_opened(realm: SimulatedRealm, clock: ManualClock) -> None:
    pair = realm.enroll("alice")
    ended = clock.advance(HOUR)
    realm.revoke(pair, COMPROMISED)
    with pytest.raises(KeyRevokedError):
        opened(realm, pair, session_create_time=ended - HOUR, sign_time=ended - HOUR, accept_time=ended - HOUR)


def test_once_the_mailbox_was_emptied_nothing_by_an_ended_key_can_be_on_its_way(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    laptop = realm.approve(phone)
    renewed = realm.renew(phone)
    realm.revoke(laptop)
    with pytest.raises(KeySupersededError):
        opened(realm, phone, retired=True)
    with pytest.raises(KeyRevokedError):
        opened(realm, laptop, retired=True)
    opened(realm, renewed, retired=True)


@pytest.mark.parametrize("ahead", ["session_create_time", "sign_time"])
def test_a_clock_that_is_ahead(realm: SimulatedRealm, ahead: str) -> None:
    pair = realm.enroll("alice")
    opened(realm, pair, **at(ahead, realm.clock() + 5 * MINUTE))
    with pytest.raises(ClockAheadError):
        opened(realm, pair, **at(ahead, realm.clock() + 5 * MINUTE + 1))
    assert ClockAheadError.not_yet


@pytest.mark.parametrize("old", ["session_create_time", "accept_time"])
def test_nothing_older_than_the_age_limit_is_opened(realm: SimulatedRealm, old: str) -> None:
    pair = realm.enroll("alice")
    opened(realm, pair, **at(old, realm.clock() - realm.constants.age_limit))
    with pytest.raises(MessageTooOldError):
        opened(realm, pair, **at(old, realm.clock() - realm.constants.age_limit - 1))


def test_that_a_key_is_still_good_only_a_fresh_record_says(realm: SimulatedRealm, clock: ManualClock) -> None:
    pair = realm.enroll("alice")
    record = realm.key_record("alice")
    sent = clock()
    late = clock.advance(HOUR)
    times = Times(sent, sent, sent, late)
    with pytest.raises(RecordExpiredError):
        check_can_open(record.keys[0], record, times, Policy(realm.constants))
    with pytest.raises(RecordExpiredError):
        check_can_act(record.get(pair.fingerprint), record, late)
