from dataclasses import replace
from typing import Any

import pytest

from keypost.clock import DAY
from keypost.protocol.errors import SecondStatementError
from keypost.protocol.sessions import (
    Candidate,
    Situation,
    check_same_session,
    check_statement,
    choose_session,
    next_create_time,
)
from keypost.protocol.suites import WEAK
from support.clock import ManualClock
from support.realm import SimulatedRealm
from support.talk import Talk


@pytest.fixture
def alice(realm: SimulatedRealm) -> Talk:
    return Talk(realm, realm.enroll("alice"))


@pytest.fixture
def bob(realm: SimulatedRealm) -> Talk:
    return Talk(realm, realm.enroll("bob"))


def situation(me: Talk, to: Talk) -> Situation:
    own, peer = me.record(me.pair.address.username), me.record(to.pair.address.username)
    return Situation(me.pair, own, peer, peer.good_keys(me.now), me.realm.constants, me.now)


def candidate(creator: Talk, to: str, sent: int = 0) -> Candidate:
    offer = creator.negotiate(to, key=bytes([creator.now % 251]) * creator.pair.suite.session_key_bytes)
    return Candidate(offer.session, offer.signed.extension, sent)


def chosen(me: Talk, to: Talk, *candidates: Candidate) -> Candidate | None:
    return choose_session(candidates, situation(me, to))


def test_without_a_session_one_is_negotiated(alice: Talk, bob: Talk) -> None:
    assert chosen(alice, bob) is None


def test_the_own_and_the_peers_session_serve_both_ways(alice: Talk, bob: Talk) -> None:
    one = candidate(alice, "bob")
    assert chosen(alice, bob, one) is one
    assert chosen(bob, alice, one) is one


def test_among_several_the_newest_is_taken(alice: Talk, bob: Talk, clock: ManualClock) -> None:
    older = candidate(alice, "bob")
    clock.advance(1)
    newer = candidate(bob, "alice")
    assert chosen(alice, bob, newer, older) is chosen(bob, alice, older, newer) is newer


def test_a_session_has_its_time_and_its_number_of_messages(alice: Talk, bob: Talk, clock: ManualClock) -> None:
    one = candidate(alice, "bob", sent=9_999)
    assert chosen(alice, bob, one) is one
    assert chosen(alice, bob, replace(one, messages_sent=10_000)) is None
    clock.advance(7 * DAY)
    assert chosen(alice, bob, one) is None


def test_after_any_change_of_keys_on_either_side_a_new_one_is_negotiated(
    realm: SimulatedRealm, alice: Talk, bob: Talk
) -> None:
    one = candidate(alice, "bob")
    realm.approve(alice.pair)
    assert chosen(alice, bob, one) is None
    two = candidate(alice, "bob")
    realm.approve(bob.pair)
    assert chosen(alice, bob, two) is None
    assert chosen(alice, bob, candidate(alice, "bob")) is not None


def test_the_holder_of_a_replaced_key_does_not_choose_the_key(
    realm: SimulatedRealm, alice: Talk, bob: Talk, clock: ManualClock
) -> None:
    renewed = Talk(realm, realm.renew(bob.pair))
    clock.advance(1)
    thief = candidate(bob, "alice")
    assert thief.creator_extension.sender_revision == realm.users["bob"].revision
    assert chosen(alice, renewed, thief) is None


def test_a_session_of_another_suite_is_not_sent_under(realm: SimulatedRealm, alice: Talk) -> None:
    weak = Talk(realm, realm.enroll("weak", WEAK))
    assert chosen(weak, alice, candidate(alice, "weak")) is None


def test_a_session_that_was_not_sealed_to_all_devices_is_not_sent_under(alice: Talk, bob: Talk) -> None:
    one = candidate(alice, "bob")
    fewer: Any = replace(one.creator_extension, recipient_devices=())
    assert chosen(alice, bob, replace(one, creator_extension=fewer)) is None


def test_only_the_creators_statement_counts(alice: Talk, bob: Talk) -> None:
    one = candidate(alice, "bob")
    answer = bob.offer("alice", one.session).signed.extension
    assert chosen(alice, bob, replace(one, creator_extension=answer)) is None


def test_a_new_session_is_later_than_all_known() -> None:
    assert next_create_time(1000, 0) == 1000
    assert next_create_time(1000, 5000) == 5001


def test_a_statement_is_its_bytes() -> None:
    assert not check_statement(None, b"one")
    assert check_statement(b"one", b"one")
    with pytest.raises(SecondStatementError):
        check_statement(b"one", b"two")


def test_a_key_id_has_one_key_and_one_creator(alice: Talk, bob: Talk) -> None:
    del bob
    session = alice.negotiate("bob").session
    check_same_session(session, replace(session))
    for other in (replace(session, key=bytes(32)), replace(session, create_time=1)):
        with pytest.raises(SecondStatementError):
            check_same_session(session, other)
