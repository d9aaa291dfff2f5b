"""Mailboxes stopped up with what cannot be opened, yet or ever: what others send is still opened, and no disk fills."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import MINUTE
from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.keystore.values import Totals
from keypost.protocol.identifiers import Address
from support.attacks import check_told
from support.hostile import Peer, opened, tighten
from support.realm import device_id
from support.talk import text

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.simulation import Services

FLOOD = 30


@pytest.fixture
def mallory(services: Services) -> Peer:
    return Peer.enroll(services, "mallory")


@pytest.fixture
def carol(services: Services) -> Peer:
    return Peer.enroll(services, "carol")


async def kept(person: Any, which: str) -> list[str]:
    """Return whose envelopes are in a list of a person's key store."""

    def read(store: Any) -> list[str]:
        return [row.username for row in getattr(store, which).page(limit=1_000)]

    return await person.client._parts.context.store.run(read)  # type: ignore[no-any-return]


async def from_the_future(peer: Peer, bob: Any, number: int, ahead: int = 10**9) -> None:
    """Put messages into Bob's mailbox that wait: their clock is ahead."""
    offer = peer.offer("bob", create_time=peer.talk.now + ahead, sign_time=peer.talk.now)
    for _ in range(number):
        await peer.put(bob.client.address, offer, text("not yet"))


async def test_messages_that_wait_for_ever(alice: Any, bob: Any, mallory: Peer, services: Services) -> None:
    """They are kept and acknowledged: the mailbox is free for what comes after them."""
    await from_the_future(mallory, bob, FLOOD)
    await alice.client.send("bob", "after the flood")
    assert await opened(bob) == ["after the flood"]
    assert services.mailboxes[bob.client.address] == []


async def test_bytes_that_are_no_message(alice: Any, bob: Any, services: Services) -> None:
    await alice.client.send("bob", "mangled")
    [delivery] = services.mailboxes[bob.client.address]
    dice = random.Random(1)
    await services.put(bob.client.address, b"\xff\xff\xff")
    for _ in range(100):
        mangled = bytearray(delivery.envelope)
        for _ in range(dice.randint(1, 3)):
            mangled[dice.randrange(len(mangled))] = dice.randrange(256)
        await services.put(bob.client.address, bytes(mangled[: dice.choice([len(mangled), dice.randrange(1, 900)])]))
    await alice.client.send("bob", "after the flood")
    assert await opened(bob) == ["mangled", "after the flood"]
    assert services.mailboxes[bob.client.address] == []


async def test_one_sender_who_fills_the_waiting_list(bob: Any, mallory: Peer, carol: Peer, clock: ManualClock) -> None:
    """The list has room for others: Carol's message, whose clock is a little ahead, opens by itself when it is time."""
    await tighten(bob, waiting__limit=Totals(10, 10**6), waiting__of_one_user=Totals(5, 10**6))
    await from_the_future(mallory, bob, FLOOD)
    await from_the_future(carol, bob, 1, ahead=10 * MINUTE)
    assert await bob.inbox() == []
    assert sorted(await kept(bob, "waiting")) == ["carol"] + ["mallory"] * 5
    clock.advance(10 * MINUTE)
    assert [message.sender.username for message in await bob.inbox()] == ["carol"]


async def test_many_senders_who_fill_the_waiting_list_together(
    bob: Any, carol: Peer, services: Services, clock: ManualClock
) -> None:
    await tighten(bob, waiting__limit=Totals(9, 10**6), waiting__of_one_user=Totals(5, 10**6))
    for name in ("mallory", "marvin", "moriarty"):
        await from_the_future(Peer.enroll(services, name), bob, 4)
    await from_the_future(carol, bob, 1, ahead=10 * MINUTE)
    assert await bob.inbox() == []
    assert len(await kept(bob, "waiting")) == 9
    check_told(bob.reasons("warning"), "WAITING_LIST_FULL")
    clock.advance(10 * MINUTE)
    assert [message.sender.username for message in await bob.inbox()] == ["carol"]


async def test_one_sender_who_pushes_out_what_was_set_aside(bob: Any, mallory: Peer, carol: Peer) -> None:
    """What is Carol's may open by a later version: it stays, and the disk does not fill."""
    await tighten(bob, set_aside__limit=Totals(10, 10**6), set_aside__of_one_user=Totals(5, 10**6))
    await carol.put(bob.client.address, carol.offer("bob", bytes(16)), text("of a kind to come"))
    offer = mallory.offer("bob", bytes(16))
    for _ in range(FLOOD):
        await mallory.put(bob.client.address, offer, text("rubbish"))
    assert await bob.inbox() == []
    assert sorted(await kept(bob, "set_aside")) == ["carol"] + ["mallory"] * 5
    check_told(bob.reasons("warning"), "SET_ASIDE_DROPPED")


async def test_many_senders_who_push_out_what_was_set_aside(bob: Any, carol: Peer, services: Services) -> None:
    await tighten(bob, set_aside__limit=Totals(9, 10**6), set_aside__of_one_user=Totals(5, 10**6))
    await carol.put(bob.client.address, carol.offer("bob", bytes(16)), text("of a kind to come"))
    for name in ("mallory", "marvin", "moriarty"):
        peer = Peer.enroll(services, name)
        offer = peer.offer("bob", bytes(16))
        for _ in range(4):
            await peer.put(bob.client.address, offer, text("rubbish"))
    assert await bob.inbox() == []
    names = await kept(bob, "set_aside")
    assert "carol" in names
    assert len(names) == 9


async def test_lies_that_leave_no_room_for_evidence(bob: Any, mallory: Peer, carol: Peer) -> None:
    """Mallory names devices that Bob never had; then the directory does show Carol one."""

    async def send(peer: Peer, number: int) -> None:
        [own] = peer.talk.record("bob").keys
        request = replace(own.request, address=Address("bob", device_id(1_000 + number)))
        devices = tuple(sorted((own, replace(own, request=request)), key=lambda key: key.address.device_id))
        await peer.put(bob.client.address, peer.offer("bob", recipients=devices), text("for two devices"))

    for number in range(FLOOD):
        await send(mallory, number)
    await send(carol, 0)
    assert len(await bob.inbox()) == FLOOD + 1

    def read(store: Any) -> list[bytes]:
        found = [one for name in ("bob", "mallory", "carol") for one in store.records.evidence(name)]
        return [pb.KeyExtension.FromString(one.current).extension for one in found]

    statements = await bob.client._parts.context.store.run(read)
    signers = [pb.Extension.FromString(statement).signer.address.username for statement in statements]
    assert "carol" in signers
    assert len(signers) < FLOOD


async def test_sessions_without_end(bob: Any, mallory: Peer) -> None:
    """A peer who changes the session key with each message has the last one answered under, not one of its choice."""
    offers = [mallory.offer("bob", create_time=mallory.talk.now - number) for number in range(40)]
    for offer in offers:
        await mallory.put(bob.client.address, offer, text("new"))
    assert len(await bob.inbox()) == len(offers)
    assert (await bob.client.send("mallory", "hello")).key_id == offers[0].session.key_id
