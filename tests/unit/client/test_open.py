from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import json_format

import keypost
from keypost.clock import HOUR, MINUTE
from keypost.errors import InvalidArgumentError, KeypostError, UnreachableError
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.keystore.errors import (
    KeyStoreLockedError,
    KeyStoreMissingError,
    KeyStoreUnavailableError,
    WrongPassphraseError,
)
from keypost.keystore.profile import SqliteProfile
from keypost.keystore.unlock import Passphrase
from keypost.protocol.errors import SignatureInvalidError, TrustRefusedError, UnknownRecordKeyError
from keypost.protocol.realm_trust import sign_realm_trust
from support.realm import seeded_signer
from support.simulation import failing

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.keystore.values import StoredRealmTrust
    from support.clock import ManualClock
    from support.simulation import Services
    from support.tls import TlsFiles

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
NOT_NOW = failing(UNAVAILABLE, "CA_UNAVAILABLE")


async def test_a_bundle_is_read_from_its_file_and_kept(
    open_client: Any, services: Services, tls: TlsFiles, tmp_path: Path
) -> None:
    path = tmp_path / "bundle.json"
    path.write_text(json_format.MessageToJson(services.bundle(tls)))
    person = await open_client("carol", bundle=path)
    assert person.client.realm == "example.org"
    address = await person.client.enroll("carol")
    await person.client.close()
    assert (await open_client("carol", bundle=None)).client.address == address


@pytest.mark.parametrize("text", ["", "{", "[]", '{"realm": 5}', "{}", '{"realm": "example.org"}', "x" * 1_100_000])
async def test_what_is_no_bundle_is_said(open_client: Any, tmp_path: Path, text: str) -> None:
    path = tmp_path / "bundle.json"
    path.write_text(text)
    with pytest.raises(InvalidArgumentError, match="bundle"):
        await open_client("carol", bundle=path)
    assert not (tmp_path / "carol").exists()


async def test_a_missing_profile_or_bundle_is_said(open_client: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyStoreMissingError):
        await open_client("nobody", bundle=None)
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        await open_client("nobody", bundle=tmp_path / "none.json")


async def test_a_profile_takes_no_bundle_of_another_realm_but_new_endpoints(
    open_client: Any, services: Services, tls: TlsFiles
) -> None:
    person = await open_client("carol")
    await person.client.close()
    other = services.bundle(tls)
    other.root_keys[0].public_key_der = seeded_signer(9).public_key_der
    with pytest.raises(InvalidArgumentError, match="other root keys"):
        await open_client("carol", bundle=other)
    moved = services.bundle(tls)
    moved.endpoints.ca = "127.0.0.1:1"
    person = await open_client("carol", bundle=moved)
    await person.client.close()
    again = await open_client("carol", bundle=None)
    with pytest.raises(UnreachableError):
        await again.client.enroll("carol")


async def test_a_profile_is_used_by_one_client_and_opened_by_its_passphrase(open_client: Any) -> None:
    person = await open_client("carol")
    with pytest.raises(KeyStoreLockedError):
        await open_client("carol")
    await person.client.close()
    with pytest.raises(WrongPassphraseError):
        await open_client("carol", unlock=Passphrase("wrong"))


async def test_trust_signed_by_another_root_is_refused(open_client: Any, services: Services) -> None:
    statement = pb.RealmTrust.FromString(services.trust.realm_trust)
    services.trust = sign_realm_trust(statement, seeded_signer(9))
    with pytest.raises(TrustRefusedError):
        await open_client("carol")
    services.trust.root_key_fingerprint = services.realm.signed_trust().root_key_fingerprint
    with pytest.raises(SignatureInvalidError):
        await open_client("carol")


async def test_trust_never_goes_back(open_client: Any, services: Services, clock: ManualClock) -> None:
    old = services.trust
    services.trust = services.realm.signed_trust(sequence=2)
    person = await open_client("carol")
    await person.client.close()
    services.trust = old
    again = await open_client("carol", bundle=None)
    assert again.reasons("warning") == ["REALM_TRUST_REGRESSED"]
    assert again.client._parts.trust.held.sequence == 2
    services.trust = services.realm.signed_trust(sequence=3)
    clock.advance(HOUR)
    await again.client.enroll("carol")
    assert again.client._parts.trust.held.sequence == 3


async def test_trust_is_had_from_the_ca_when_the_directory_is_away(open_client: Any, services: Services) -> None:
    services.faults["GetRealmTrust"] = [NOT_NOW] * 5
    person = await open_client("carol")
    assert person.client._parts.trust.held.sequence == 1


async def test_without_services_a_new_profile_cannot_begin_but_an_old_one_opens(
    open_client: Any, services: Services
) -> None:
    services.faults["GetRealmTrust"] = [NOT_NOW] * 10
    with pytest.raises(KeypostError, match="CA_UNAVAILABLE"):
        await open_client("carol")
    person = await open_client("carol")
    await person.client.close()
    services.faults["GetRealmTrust"] = [NOT_NOW] * 10
    again = await open_client("carol", bundle=None)
    assert again.reasons("warning") == ["CA_UNAVAILABLE"]


async def test_what_is_older_than_the_age_limit_is_erased(alice: Any, bob: Any, clock: ManualClock) -> None:
    await alice.client.send("bob", "one")
    [message] = await bob.inbox()
    store = bob.client._parts.context.store
    assert await store.run(lambda opened: opened.counters.is_received(message.sender, message.message_id.bytes))
    clock.advance(bob.client._parts.trust.held.constants.age_limit + 1)
    await bob.inbox()
    assert not await store.run(lambda opened: opened.counters.is_received(message.sender, message.message_id.bytes))
    assert await store.run(lambda opened: opened.sessions.newest(("alice", "bob"))) == ()


async def test_trust_that_cannot_be_refreshed_is_not_asked_for_with_every_message(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    clock.advance(HOUR)
    services.faults["GetRealmTrust"] = [NOT_NOW] * 100
    await alice.client.send("bob", "one")
    asked = len(services.requests["GetRealmTrust"])
    await alice.client.send("bob", "two")
    assert len(services.requests["GetRealmTrust"]) == asked
    clock.advance(60_000)
    await alice.client.send("bob", "three")
    assert len(services.requests["GetRealmTrust"]) > asked
    services.faults["GetRealmTrust"] = []
    assert len(await bob.inbox()) == 3


async def test_a_new_record_key_is_learnt_when_a_record_names_it(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "one")
    clock.advance(HOUR - 1)
    await alice.client.send("bob", "two")
    # The trust was fetched a moment ago, and is fetched again all the same; a second time only after a minute.
    for seed, words in ((7, "three"), (8, "four")):
        clock.advance(HOUR)
        services.realm.record_signer = seeded_signer(seed)
        alice.client._parts.trust._next_time = clock() + HOUR
        alice.client._parts.trust._asked_time = clock()
        services.trust = services.realm.signed_trust(sequence=seed)
        await alice.client.send("bob", words)
    services.realm.record_signer = seeded_signer(9)
    services.trust = services.realm.signed_trust(sequence=9)
    with pytest.raises(UnknownRecordKeyError):
        await alice.client.keys("bob")
    clock.advance(60_000)
    await alice.client.keys("bob")
    assert [message.text for message in await bob.inbox()] == ["one", "two", "three", "four"]


async def test_a_closed_client_says_so_and_keeps_no_key(alice: Any) -> None:
    parts = alice.client._parts
    await alice.client.close()
    await alice.client.close()
    assert parts.identity.ring.all() == ()
    for call in (alice.client.send("bob", "x"), alice.client.keys("bob"), alice.inbox()):
        with pytest.raises(InvalidArgumentError, match="closed"):
            await call
    with pytest.raises(KeypostError, match="closed"):
        await parts.context.store.run(lambda store: store.profile.read())


async def test_closing_lets_a_message_on_its_way_arrive(alice: Any, bob: Any, services: Services) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_context: Any) -> None:
        begun.set()
        await go_on.wait()

    services.faults["Send"] = [slow]
    async with asyncio.timeout(20):
        sending = asyncio.create_task(alice.client.send("bob", "hello"))
        await begun.wait()
        closing = asyncio.create_task(alice.client.close())
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(sending, closing)
    assert [message.text for message in await bob.inbox()] == ["hello"]


async def test_closing_ends_an_iteration(alice: Any, bob: Any) -> None:
    await alice.client.send("bob", "one")
    iterator = bob.client.receive()
    await anext(iterator)
    async with asyncio.timeout(20):
        await bob.client.close()
    await iterator.aclose()
    assert bob.client._tasks == set()


async def test_closing_ends_an_iteration_that_waits_for_a_message(bob: Any, services: Services) -> None:
    begun = asyncio.Event()

    async def note(_context: Any) -> None:
        begun.set()

    services.faults["Receive"] = [note]
    async with asyncio.timeout(20):
        waiting = asyncio.create_task(anext(bob.client.receive(), None))
        await begun.wait()
        await bob.client.close()
        assert await waiting is None


async def test_a_message_in_hand_when_the_client_is_closed_comes_again(alice: Any, bob: Any, open_client: Any) -> None:
    await alice.client.send("bob", "one")
    iterator = bob.client.receive()
    await anext(iterator)
    await bob.client.close()
    with pytest.raises(InvalidArgumentError, match="closed"):
        await anext(iterator)
    [message] = await (await open_client("bob", bundle=None)).inbox()
    assert (message.text, message.redelivered) == ("one", True)


async def test_it_says_who_it_is_and_no_more(alice: Any) -> None:
    shown = repr(alice.client)
    assert "example.org" in shown
    assert "private" not in shown
    assert "RSA" not in repr(replace(alice.client._parts.identity.ring, current=None))


def test_the_public_names_are_there_and_load_late() -> None:
    for name in keypost.__all__:
        assert getattr(keypost, name) is not None
    with pytest.raises(AttributeError):
        _ = keypost.nothing
    code = "import keypost, sys; assert 'grpc' not in sys.modules and 'cryptography' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_trust_statement_that_cannot_be_kept_is_not_relied_upon(
    open_client: Any, services: Services, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    carol = await open_client("carol")
    await carol.client.enroll("carol")
    services.trust = services.realm.signed_trust(2)
    clock.advance(HOUR)
    with monkeypatch.context() as full:
        full.setattr(SqliteProfile, "set_realm_trust", _fail)
        with pytest.raises(KeyStoreUnavailableError):
            await carol.client.keys("carol")
    assert carol.client._parts.trust.held.sequence == 1
    clock.advance(MINUTE)
    await carol.client.keys("carol")
    assert carol.client._parts.trust.held.sequence == 2


def _fail(_profile: SqliteProfile, _trust: StoredRealmTrust) -> None:
    raise KeyStoreUnavailableError("the disk is full")
