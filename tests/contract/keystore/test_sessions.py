from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keypost.errors import InvalidArgumentError
from keypost.keystore import KeyStoreConflictError
from keypost.keystore.values import OwnExtension, StoredStatement
from support.key_store import ALICE, ALICE_TABLET, BOB, BOTH, KEY_ID, NOW, SESSION, Reopening, session

STATEMENT = StoredStatement(BOB, b"extension", b"signature")
OWN = OwnExtension(b"own extension", b"own signature", ((b"\x01" * 32, b"sealed"), (b"\x02" * 32, b"sealed too")))


def test_a_session_is_kept(key_store: Reopening) -> None:
    key_store.store.sessions.add(SESSION)
    assert key_store.again().sessions.find(BOTH, KEY_ID) == SESSION
    assert key_store.store.sessions.find(BOTH, b"\xff" * 32) is None
    assert key_store.store.sessions.find(("bob", "carol"), KEY_ID) is None


def test_the_same_session_again_changes_nothing(key_store: Reopening) -> None:
    key_store.store.sessions.add(SESSION)
    key_store.store.sessions.add(replace(SESSION, messages_sent=9))
    assert key_store.again().sessions.find(BOTH, KEY_ID) == SESSION


@pytest.mark.parametrize(
    "other",
    [
        {"session_key": b"another session key of as many b"},
        {"suite": 1},
        {"creator": ALICE},
        {"creator_fingerprint": b"\xcc" * 32},
        {"create_time": NOW + 1},
    ],
)
def test_a_key_id_names_one_session_key_and_creator(key_store: Reopening, other: dict[str, Any]) -> None:
    key_store.store.sessions.add(SESSION)
    with pytest.raises(KeyStoreConflictError):
        key_store.store.sessions.add(replace(SESSION, **other))
    assert key_store.again().sessions.find(BOTH, KEY_ID) == SESSION


def test_the_newest_sessions_come_first_and_equal_times_by_key_id(key_store: Reopening) -> None:
    same_time = replace(session(5), key_id=b"\xff" * 32)
    for added in (session(2), same_time, session(5), session(1)):
        key_store.store.sessions.add(added)
    sessions = key_store.again().sessions
    assert sessions.newest(BOTH) == (same_time, session(5), session(2), session(1))
    assert sessions.newest(BOTH, limit=1) == (same_time,)
    assert sessions.newest(("alice", "carol")) == ()


def test_the_highest_create_time_outlives_the_sessions(key_store: Reopening) -> None:
    assert key_store.store.sessions.highest_create_time(BOTH) == 0
    key_store.store.sessions.add(session(5))
    key_store.store.sessions.add(session(2))
    key_store.store.prune(NOW + 100)
    sessions = key_store.again().sessions
    assert sessions.newest(BOTH) == ()
    assert sessions.highest_create_time(BOTH) == NOW + 5


def test_messages_under_a_session_are_counted(key_store: Reopening) -> None:
    key_store.store.sessions.add(SESSION)
    assert [key_store.store.sessions.count_messages(BOTH, KEY_ID) for _ in range(3)] == [1, 2, 3]
    assert key_store.store.sessions.count_messages(BOTH, KEY_ID, 4) == 7
    assert key_store.again().sessions.find(BOTH, KEY_ID) == replace(SESSION, messages_sent=7)


def test_one_statement_for_each_signer(key_store: Reopening) -> None:
    key_store.store.sessions.add(SESSION)
    own = StoredStatement(ALICE, b"extension of alice", b"signature")
    for statement in (STATEMENT, own, STATEMENT, replace(STATEMENT, signature=b"another salt")):
        key_store.store.sessions.add_statement(BOTH, KEY_ID, statement)
    with pytest.raises(KeyStoreConflictError):
        key_store.store.sessions.add_statement(BOTH, KEY_ID, replace(STATEMENT, extension=b"a second one"))
    sessions = key_store.again().sessions
    assert sessions.statement(BOTH, KEY_ID, BOB) == STATEMENT
    assert sessions.statement(BOTH, KEY_ID, ALICE_TABLET) is None
    assert sessions.statement(BOTH, KEY_ID, own.signer) == own


def test_the_own_extension_is_kept_for_every_message(key_store: Reopening) -> None:
    key_store.store.sessions.add(SESSION)
    assert key_store.store.sessions.own_extension(BOTH, KEY_ID) is None
    assert key_store.store.sessions.own_extension(BOTH, b"\xff" * 32) is None
    key_store.store.sessions.set_own_extension(BOTH, KEY_ID, OWN)
    key_store.store.sessions.set_own_extension(BOTH, KEY_ID, OWN)
    assert key_store.again().sessions.own_extension(BOTH, KEY_ID) == OWN
    with pytest.raises(KeyStoreConflictError):
        key_store.store.sessions.set_own_extension(BOTH, KEY_ID, replace(OWN, extension=b"another"))


def test_what_belongs_to_a_session_needs_the_session(key_store: Reopening) -> None:
    sessions = key_store.store.sessions
    with pytest.raises(KeyStoreConflictError):
        sessions.count_messages(BOTH, KEY_ID)
    with pytest.raises(KeyStoreConflictError):
        sessions.add_statement(BOTH, KEY_ID, STATEMENT)
    with pytest.raises(KeyStoreConflictError):
        sessions.set_own_extension(BOTH, KEY_ID, OWN)


def test_statements_go_with_their_session(key_store: Reopening) -> None:
    key_store.store.sessions.add(SESSION)
    key_store.store.sessions.add_statement(BOTH, KEY_ID, STATEMENT)
    key_store.store.prune(NOW + 1)
    key_store.store.sessions.add(SESSION)
    assert key_store.again().sessions.statement(BOTH, KEY_ID, STATEMENT.signer) is None


def test_a_pair_that_is_not_sorted_is_refused(key_store: Reopening) -> None:
    with pytest.raises(InvalidArgumentError):
        key_store.store.sessions.add(replace(SESSION, conversation=("bob", "alice")))
