"""The SDK against the three services as months pass: one clock for all of them, moved by the test."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from keypost import Client
from keypost.clock import DAY, HOUR
from keypost.errors import RefusedError
from keypost.keys.v1 import realm_trust_pb2
from keypost.keystore.unlock import Argon2Cost, Passphrase
from keypost.protocol.errors import IdentityChangedError, KeyRevokedError
from keypost.transport.retries import Backoff, Retries
from support.ca_service import REALM
from support.people import Person
from support.plain_stack import open_plain_stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.plain_stack import PlainStack

LONG = 60
CHEAP = Passphrase("correct horse", Argon2Cost(memory=64, iterations=1, lanes=1))
QUICK = Retries(backoff=Backoff(first=0.01, longest=0.1))


class Town:
    """People with clients, who sign in by codes."""

    def __init__(self, stack: PlainStack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.clients: list[Client] = []

    @property
    def bundle(self) -> realm_trust_pb2.Bundle:
        ports = {name: f"127.0.0.1:{service.public_port}" for name, service in self.stack.services.items()}
        return realm_trust_pb2.Bundle(
            realm=REALM,
            endpoints=realm_trust_pb2.Endpoints(**ports),
            root_keys=[realm_trust_pb2.RootKey(public_key_der=key) for key in self.stack.ca.trust.root_keys],
            tls_roots_pem=(self.stack.folder / "public-root.pem").read_text(),
        )

    async def open(self, profile: str) -> Person:
        person = Person(client=None)  # type: ignore[arg-type]
        person.client = await Client.open(
            self.folder / profile,
            unlock=CHEAP,
            bundle=self.bundle,
            clock=self.stack.ca.clock,
            retries=QUICK,
            on_event=person.hear,
            generate=self.stack.ca.keys,
        )
        self.clients.append(person.client)
        return person

    async def code(self, username: str, expires: str = "1d") -> str:
        return (await self.stack.ca.code(username, expires)).one_time_code

    async def enroll(self, username: str) -> Person:
        person = await self.open(username)
        await person.client.enroll(username, code=await self.code(username))
        return person

    def pass_time(self, milliseconds: int) -> None:
        self.stack.ca.clock.advance(milliseconds)


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with open_plain_stack(tmp_path / "stack", sign_in="code") as stack:
        found = Town(stack, tmp_path)
        yield found
        for client in found.clients:
            await client.close()


async def texts(person: Person) -> list[str]:
    return [message.text for message in await person.inbox()]


async def test_an_identity_begins_anew_a_day_after_it_was_asked_for(town: Town) -> None:
    alice, bob = await town.enroll("alice"), await town.enroll("bob")
    new = await town.open("alice-new")
    async with asyncio.timeout(LONG):
        await bob.client.send("alice", "we have met")
        code = await town.code("alice", "3d")
        with pytest.raises(RefusedError) as refused:
            await new.client.enroll("alice", code=code)
        assert refused.value.reason == "APPROVAL_REQUIRED"
        due = await new.client.request_reset("alice", code=code)
        assert due == town.stack.ca.clock() + DAY
        await alice.client.devices()
        assert "RESET_ANNOUNCED" in alice.reasons("error"), "her good device is told, and could stop it"
        town.pass_time(DAY - 1)
        with pytest.raises(RefusedError):
            await new.client.enroll("alice", code=code)
        town.pass_time(1)
        await new.client.enroll("alice", code=code)
        record = await new.client.devices()
        assert (record.epoch, len(record.good_keys(record.this_update))) == (2, 1)
        with pytest.raises(KeyRevokedError):
            await alice.client.send("bob", "from the device that was given up")
        await new.client.send("bob", "it is I")
        with pytest.raises(IdentityChangedError) as changed:
            await bob.client.send("alice", "are you?")
        await bob.client.accept_identity("alice", bytes.fromhex(changed.value.metadata["root"]))
        await bob.client.send("alice", "you are")
        assert await texts(bob) == ["it is I"]
        assert "you are" in await texts(new)


async def test_a_reset_that_a_device_stops_never_takes_place(town: Town) -> None:
    alice, thief = await town.enroll("alice"), await town.open("thief")
    async with asyncio.timeout(LONG):
        code = await town.code("alice", "30d")
        await thief.client.request_reset("alice", code=code)
        await alice.client.cancel_reset()
        town.pass_time(2 * DAY)
        with pytest.raises(RefusedError) as refused:
            await thief.client.enroll("alice", code=code)
        assert refused.value.reason == "APPROVAL_REQUIRED"
        record = await alice.client.devices()
        assert (record.epoch, record.reset_time) == (1, 0)


async def test_keys_are_renewed_by_themselves_for_months_and_peers_who_were_away_follow(town: Town) -> None:
    alice, bob, carol = [await town.enroll(name) for name in ("alice", "bob", "carol")]
    async with asyncio.timeout(LONG):
        await carol.client.set_verified("alice", (await carol.client.safety_number("alice")).digits)
        first = alice.client._parts.identity.current.fingerprint
        for number in range(4):
            town.pass_time(61 * DAY)
            await alice.client.send("bob", str(number))
            assert await texts(bob) == [str(number)]
        assert first not in {key.fingerprint for key in (await alice.client.devices()).keys}, "it has left the record"
        # Carol has seen none of it; her own key expired long ago, but not too long.
        await carol.client.renew()
        await carol.client.send("alice", "I was away")
        assert await texts(alice) == ["I was away"]
        assert await carol.client.is_verified("alice"), "an unbroken chain carries the mark"
    assert [person.reasons("error") for person in (alice, bob, carol)] == [[], [], []]


async def test_a_device_that_was_away_for_too_long_renews_first(town: Town) -> None:
    alice, bob = await town.enroll("alice"), await town.enroll("bob")
    town.pass_time(150 * DAY)
    async with asyncio.timeout(LONG):
        key = await bob.client.renew()
        assert key.expire_time > town.stack.ca.clock()
        await alice.client.send("bob", "welcome back")
        assert await texts(bob) == ["welcome back"]
        town.pass_time(HOUR)
        assert alice.reasons("error") == bob.reasons("error") == []
