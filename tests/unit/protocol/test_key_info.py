from typing import Any

import pytest

from keypost.clock import DAY, HOUR, MINUTE
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import (
    EndorsementError,
    ForkDetectedError,
    KeyUnknownError,
    MalformedStatementError,
    PossessionError,
    RecordExpiredError,
    RecordFromFutureError,
    RecordRefusedError,
    SignatureInvalidError,
    SuiteRefusedError,
    TreeBrokenError,
    TrustRefusedError,
    UnknownRecordKeyError,
)
from keypost.protocol.key_info import REVOKED, SUPERSEDED, KeyRecord, read_key_info, sign_user_keys
from keypost.protocol.suites import STRONG, WEAK
from support.clock import START, ManualClock
from support.realm import LIFETIME, SimulatedRealm, seeded_signer

COMPROMISED = pb.REVOCATION_REASON_COMPROMISED


def read(realm: SimulatedRealm, key_info: pb.KeyInfo, username: str = "alice") -> KeyRecord:
    return read_key_info(key_info, trust=realm.trust(), username=username, now=realm.clock())


def resigned(realm: SimulatedRealm, statement: pb.UserKeys) -> pb.KeyInfo:
    return pb.KeyInfo(record=sign_user_keys(statement, realm.record_signer))


def test_an_honest_record_is_accepted_whole(realm: SimulatedRealm, clock: ManualClock) -> None:
    phone = realm.enroll("alice")
    laptop = realm.approve(phone)
    renewed = realm.renew(phone)
    realm.revoke(laptop)
    record = realm.key_record("alice")
    assert (record.epoch, record.revision, record.next_update - record.this_update) == (1, 4, HOUR)
    assert [key.state for key in record.keys] == [SUPERSEDED, REVOKED, pb.KEY_STATE_GOOD]
    assert [key.fingerprint for key in record.good_keys(clock())] == [renewed.fingerprint]
    assert record.get(phone.fingerprint).address == renewed.address
    with pytest.raises(KeyUnknownError):
        record.get(bytes(32))


def test_keys_expire(realm: SimulatedRealm, clock: ManualClock) -> None:
    realm.enroll("alice")
    clock.advance(LIFETIME - 1)
    assert len(realm.key_record("alice").good_keys(clock())) == 1
    clock.advance(1)
    assert realm.key_record("alice").good_keys(clock()) == ()


def test_the_directory_answers_for_another_user(realm: SimulatedRealm) -> None:
    realm.enroll("alice")
    realm.enroll("mallory")
    with pytest.raises(RecordRefusedError):
        read(realm, realm.key_info("mallory"))
    with pytest.raises(RecordRefusedError):
        read(realm, realm.key_info("alice", realm="other.org"))


def test_the_record_is_signed_by_somebody_else(realm: SimulatedRealm) -> None:
    realm.enroll("alice")
    forged = realm.key_info("alice")
    realm.record_signer = seeded_signer(77)
    stranger = realm.key_info("alice")
    realm.record_signer = seeded_signer(2)
    with pytest.raises(UnknownRecordKeyError):
        read(realm, stranger)
    stranger.record.record_key_fingerprint = forged.record.record_key_fingerprint
    with pytest.raises(SignatureInvalidError):
        read(realm, stranger)


def test_the_record_is_altered(realm: SimulatedRealm) -> None:
    realm.enroll("alice")
    info = realm.key_info("alice")
    info.record.user_keys += b"\x20\x09"
    with pytest.raises(SignatureInvalidError):
        read(realm, info)


def test_the_record_is_fresh_until_next_update(realm: SimulatedRealm, clock: ManualClock) -> None:
    realm.enroll("alice")
    info = realm.key_info("alice")
    clock.advance(HOUR - 1)
    read(realm, info)
    clock.advance(1)
    with pytest.raises(RecordExpiredError):
        read(realm, info)


def test_the_record_may_be_five_minutes_ahead_and_no_more(realm: SimulatedRealm, clock: ManualClock) -> None:
    realm.enroll("alice")
    info = realm.key_info("alice")
    clock.advance(-5 * MINUTE)
    read(realm, info)
    clock.advance(-1)
    with pytest.raises(RecordFromFutureError):
        read(realm, info)


def test_trust_that_has_expired_verifies_nothing(realm: SimulatedRealm, clock: ManualClock) -> None:
    realm.enroll("alice")
    trust = realm.trust()
    clock.advance(400 * DAY)
    with pytest.raises(TrustRefusedError):
        read_key_info(realm.key_info("alice"), trust=trust, username="alice", now=clock())


@pytest.mark.parametrize("lifetime", [0, -1, HOUR + 1])
def test_a_record_lives_no_longer_than_the_realm_allows(realm: SimulatedRealm, lifetime: int) -> None:
    realm.enroll("alice")
    with pytest.raises(MalformedStatementError):
        read(realm, realm.key_info("alice", next_update=realm.clock() + lifetime))


def test_an_empty_record_is_none(realm: SimulatedRealm) -> None:
    realm.enroll("alice")
    statement = realm.statement("alice")
    del statement.entries[:]
    with pytest.raises(MalformedStatementError):
        read(realm, resigned(realm, statement))


@pytest.mark.parametrize(
    "changes",
    [
        {"state": 0},
        {"state": 9},
        {"state_time": 0},
        {"state_time": START + 1},
        {"state_time": START - 1},
        {"enter_time": 0},
        {"enter_time": START + 1},
        {"reason": COMPROMISED},
        {"state": REVOKED},
    ],
    ids=str,
)
def test_an_entry_with_an_impossible_state_is_refused(realm: SimulatedRealm, changes: dict[str, Any]) -> None:
    realm.enroll("alice")
    statement = realm.statement("alice")
    for name, value in changes.items():
        setattr(statement.entries[0], name, value)
    with pytest.raises(MalformedStatementError):
        read(realm, resigned(realm, statement))


def test_a_key_swapped_in_has_no_possession(realm: SimulatedRealm) -> None:
    realm.enroll("alice")
    statement = realm.statement("alice")
    statement.entries[0].request.possession = bytes(384)
    with pytest.raises(PossessionError):
        read(realm, resigned(realm, statement))


def test_an_entry_of_another_user_is_refused(realm: SimulatedRealm) -> None:
    realm.enroll("alice")
    bob = realm.enroll("bob")
    statement = realm.statement("alice", revision=2)
    realm.user("bob").revision = 1
    statement.entries.append(
        pb.KeyEntry(
            request=realm.signed_request(bob, pb.KEY_REQUEST_KIND_ENROLL, revision=2),
            state=pb.KEY_STATE_GOOD,
            state_time=realm.clock(),
            enter_time=realm.clock(),
        )
    )
    with pytest.raises(MalformedStatementError, match="another realm or user"):
        read(realm, resigned(realm, statement))


def test_entries_stand_in_the_order_in_which_they_entered(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    realm.approve(phone)
    statement = realm.statement("alice")
    entries = list(statement.entries)
    for broken in ([entries[1], entries[0]], [entries[0], entries[0]]):
        del statement.entries[:]
        statement.entries.extend(broken)
        with pytest.raises(MalformedStatementError):
            read(realm, resigned(realm, statement))


def test_no_entry_is_from_a_later_revision(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    realm.approve(phone)
    with pytest.raises(MalformedStatementError):
        read(realm, realm.key_info("alice", revision=1))


def test_a_key_in_history_and_record_is_named_twice(realm: SimulatedRealm) -> None:
    realm.enroll("alice")
    info = realm.key_info("alice")
    info.history.append(realm.users["alice"].keys[0].request.signed)
    with pytest.raises(MalformedStatementError, match="twice"):
        read(realm, info)


def test_a_device_has_one_good_key_at_a_time(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    renewed = realm.renew(phone)
    realm.set_state(phone, pb.KEY_STATE_GOOD)
    with pytest.raises(MalformedStatementError, match="one good key"):
        read(realm, realm.key_info("alice"))
    realm.set_state(phone, SUPERSEDED)
    other = realm.new_pair(renewed.address)
    realm.record(realm.signed_request(other, pb.KEY_REQUEST_KIND_RENEW, renewed))
    with pytest.raises(MalformedStatementError, match="one good key"):
        read(realm, realm.key_info("alice"))


def test_a_key_whose_successor_stands_in_the_history_is_not_good(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    second = realm.renew(phone)
    realm.approve(second)
    realm.set_state(phone, pb.KEY_STATE_GOOD)
    user = realm.users["alice"]
    user.history, user.keys = (user.keys[1].request,), (user.keys[0], user.keys[2])
    with pytest.raises(MalformedStatementError, match="one good key"):
        read(realm, realm.key_info("alice"))


def test_a_second_root_is_slipped_in(realm: SimulatedRealm) -> None:
    realm.enroll("alice")
    realm.enroll("alice")
    with pytest.raises(TreeBrokenError, match="2 roots"):
        read(realm, realm.key_info("alice"))


def test_a_parent_is_left_out(realm: SimulatedRealm) -> None:
    realm.approve(realm.enroll("alice"))
    statement = realm.statement("alice")
    del statement.entries[0]
    with pytest.raises(TreeBrokenError, match="unknown"):
        read(realm, resigned(realm, statement))


def test_a_forged_endorsement_breaks_the_tree(realm: SimulatedRealm) -> None:
    realm.approve(realm.enroll("alice"))
    statement = realm.statement("alice")
    entry = pb.KeyEntry.FromString(statement.entries[1].SerializeToString())
    entry.request.endorsement = entry.request.possession
    statement.entries[1].CopyFrom(entry)
    with pytest.raises(EndorsementError):
        read(realm, resigned(realm, statement))


def test_a_key_has_one_successor(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    first = realm.renew(phone)
    realm.set_state(first, REVOKED, pb.REVOCATION_REASON_LOST)
    second = realm.new_pair(phone.address)
    realm.record(realm.signed_request(second, pb.KEY_REQUEST_KIND_RENEW, phone))
    with pytest.raises(ForkDetectedError):
        read(realm, realm.key_info("alice"))


def test_a_replaced_key_vouches_for_nobody(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    realm.renew(phone)
    realm.approve(phone)
    with pytest.raises(EndorsementError, match="replaced"):
        read(realm, realm.key_info("alice"))


def test_an_expired_key_vouches_for_nobody(realm: SimulatedRealm, clock: ManualClock) -> None:
    phone = realm.enroll("alice")
    clock.advance(LIFETIME)
    realm.approve(phone)
    with pytest.raises(EndorsementError, match="expired"):
        read(realm, realm.key_info("alice"))


def test_an_expired_key_renews_within_its_window(realm: SimulatedRealm, clock: ManualClock) -> None:
    phone = realm.enroll("alice")
    clock.advance(LIFETIME + realm.constants.renewal_window - 1)
    renewed = realm.renew(phone)
    assert realm.key_record("alice").good_keys(clock())[0].fingerprint == renewed.fingerprint


def test_an_expired_key_does_not_renew_after_its_window(realm: SimulatedRealm, clock: ManualClock) -> None:
    phone = realm.enroll("alice")
    clock.advance(LIFETIME + realm.constants.renewal_window)
    realm.renew(phone)
    with pytest.raises(EndorsementError, match="window"):
        read(realm, realm.key_info("alice"))


def test_what_a_compromised_key_vouched_for_is_void(realm: SimulatedRealm, clock: ManualClock) -> None:
    phone = realm.enroll("alice")
    clock.advance(1)
    before = realm.approve(phone)
    since = clock.advance(1)
    clock.advance(1)
    after = realm.approve(phone)
    descendant = realm.approve(after)
    realm.revoke(phone, COMPROMISED, since)
    record = realm.key_record("alice")
    assert [key.fingerprint for key in record.good_keys(clock())] == [before.fingerprint]
    assert record.is_void(record.get(descendant.fingerprint))


def test_a_reset_begins_a_new_epoch(realm: SimulatedRealm, clock: ManualClock) -> None:
    old = realm.enroll("alice")
    new = realm.reset("alice")
    record = realm.key_record("alice")
    assert record.epoch == 2
    assert [key.fingerprint for key in record.good_keys(clock())] == [new.fingerprint]
    realm.set_state(old, pb.KEY_STATE_GOOD)
    with pytest.raises(MalformedStatementError, match="epoch"):
        read(realm, realm.key_info("alice"))


def test_history_leads_back_to_the_root(realm: SimulatedRealm) -> None:
    phone = realm.enroll("alice")
    renewed = realm.renew(phone)
    user = realm.users["alice"]
    user.history, user.keys = (user.keys[0].request,), user.keys[1:]
    record = realm.key_record("alice")
    assert record.tree().root == phone.fingerprint
    assert record.tree().members == {phone.fingerprint: b"", renewed.fingerprint: phone.fingerprint}


def test_a_weak_parent_proves_nothing_to_a_strong_verifier(realm: SimulatedRealm) -> None:
    weak = realm.enroll("alice", WEAK)
    strong = realm.renew(weak, STRONG)
    record = realm.key_record("alice")
    assert record.tree(WEAK).root == weak.fingerprint
    assert record.tree(STRONG).root == strong.fingerprint
    realm.enroll("bob", WEAK)
    with pytest.raises(SuiteRefusedError):
        realm.key_record("bob").tree(STRONG)


def test_no_key_is_of_a_later_epoch_and_a_reset_revokes_all_of_earlier_ones(realm: SimulatedRealm) -> None:
    old = realm.enroll("alice")
    realm.reset("alice")
    ghost = realm.new_pair(realm.new_address("alice"))
    realm.record(realm.signed_request(ghost, pb.KEY_REQUEST_KIND_ENROLL, epoch=99))
    realm.revoke(ghost)
    with pytest.raises(MalformedStatementError, match="epoch"):
        read(realm, realm.key_info("alice"))
    realm.users["alice"].keys = realm.users["alice"].keys[:-1]
    realm.set_state(old, SUPERSEDED)
    with pytest.raises(MalformedStatementError, match="reset"):
        read(realm, realm.key_info("alice"))


def test_a_key_lives_no_longer_than_the_realm_allows(realm: SimulatedRealm) -> None:
    longest = realm.constants.longest_key_lifetime
    realm.enroll("alice", expire_time=realm.clock() + longest)
    realm.key_record("alice")
    realm.enroll("bob", expire_time=realm.clock() + longest + 1)
    with pytest.raises(MalformedStatementError, match="longer"):
        read(realm, realm.key_info("bob"), "bob")


def test_a_revoked_key_vouches_for_nobody(realm: SimulatedRealm, clock: ManualClock) -> None:
    phone = realm.enroll("alice")
    laptop = realm.approve(phone)
    realm.revoke(laptop)
    clock.advance(1)
    realm.approve(laptop)
    with pytest.raises(EndorsementError, match="ended"):
        read(realm, realm.key_info("alice"))


def test_an_expired_key_vouches_for_nobody_from_history_either(realm: SimulatedRealm, clock: ManualClock) -> None:
    phone = realm.enroll("alice")
    clock.advance(LIFETIME)
    realm.approve(phone)
    user = realm.users["alice"]
    user.history, user.keys = (user.keys[0].request,), user.keys[1:]
    with pytest.raises(EndorsementError, match="expired"):
        read(realm, realm.key_info("alice"))


def test_a_compromise_does_not_reach_what_entered_before_it(realm: SimulatedRealm, clock: ManualClock) -> None:
    """An honest device stays good though it renewed after the moment of the compromise."""
    phone = realm.enroll("alice")
    laptop = realm.approve(phone)
    since = clock.advance(10)
    clock.advance(1)
    renewed = realm.renew(laptop)
    realm.revoke(phone, COMPROMISED, since)
    assert [key.fingerprint for key in realm.key_record("alice").good_keys(clock())] == [renewed.fingerprint]


def test_void_passes_through_history(realm: SimulatedRealm, clock: ManualClock) -> None:
    phone = realm.enroll("alice")
    since = clock.advance(1)
    clock.advance(1)
    ghost = realm.approve(phone)
    clock.advance(1)
    realm.renew(ghost)
    realm.revoke(phone, COMPROMISED, since)
    user = realm.users["alice"]
    user.history, user.keys = (user.keys[1].request,), (user.keys[0], user.keys[2])
    assert realm.key_record("alice").good_keys(clock()) == ()
