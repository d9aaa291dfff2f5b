"""What waits for a device that was revoked."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from keypost.clock import HOUR
from keypost.keys.v1 import key_info_pb2
from keypost_services.delivery.compose import compose
from keypost_services.delivery.emptying import Emptying, revoked_devices
from keypost_services.delivery.mailboxes import MailboxesUnavailableError
from keypost_services.delivery.metrics import Metrics
from keypost_services.delivery.store_valkey import ValkeyMailboxes
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.serving import running
from support.delivery import Stack, until
from support.delivery_world import World
from support.mailboxes import append, open_mailboxes, posting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import KeyRecord
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost_services.delivery.mailboxes import Mailboxes, Posting

DELETED = "keypost_delivery_deleted_total"
REVOKED = key_info_pb2.KEY_EVENT_KIND_REVOKED


@pytest.fixture
async def tablet(world: World) -> DeviceKeyPair:
    """Bob's second device, for which two messages wait, as for his first."""
    pair = world.stack.realm.approve(world.bob_pair)
    await world.event()
    await world.send("one", "two")
    return pair


async def waiting(world: World, pair: DeviceKeyPair) -> int:
    async with open_mailboxes(world.stack.valkey.url) as opened:
        return (await opened.mailboxes.waiting(pair.address)).messages


def revoke(world: World, pair: DeviceKeyPair) -> None:
    world.stack.realm.revoke(pair)
    world.directory.tell("bob", kind=REVOKED, fingerprint=pair.fingerprint, ended_fingerprint=pair.fingerprint)


async def test_at_its_event_what_waits_for_a_revoked_device_is_deleted_and_counted(
    world: World, tablet: DeviceKeyPair
) -> None:
    revoke(world, tablet)
    await until(lambda: world.counted(DELETED) == 2)
    assert await waiting(world, tablet) == 0
    assert len(await world.mailbox(world.bob_pair)) == 2, "the other device has its own"


async def test_what_was_judged_before_the_revocation_and_stored_after_it_is_deleted_too(
    world: World, tablet: DeviceKeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_all = ValkeyMailboxes.append_all

    async def late(mailboxes: ValkeyMailboxes, postings: Sequence[Posting]) -> Any:
        revoke(world, tablet)
        await until(lambda: world.counted(DELETED) == 2)
        return await append_all(mailboxes, postings)

    with monkeypatch.context() as patch:
        patch.setattr(ValkeyMailboxes, "append_all", late)
        await world.send("three")
    await until(lambda: world.counted(DELETED) == 3)
    assert await waiting(world, tablet) == 0
    assert len(await world.mailbox(world.bob_pair)) == 3


async def test_an_event_alone_deletes_nothing(world: World, tablet: DeviceKeyPair) -> None:
    world.directory.tell("bob", kind=REVOKED, fingerprint=tablet.fingerprint, ended_fingerprint=tablet.fingerprint)
    await world.event_arrived()
    await world.send("three")
    assert len(await world.mailbox(tablet)) == 3
    assert world.counted(DELETED) == 0


async def test_without_an_event_a_record_that_shows_it_is_enough(world: World, tablet: DeviceKeyPair) -> None:
    world.stack.realm.revoke(tablet)
    world.stack.clock.advance(HOUR)
    await world.send("three")
    await until(lambda: world.counted(DELETED) == 2)
    assert await waiting(world, tablet) == 0


async def test_a_replica_that_was_not_there_deletes_it_once_it_looks_the_user_up(
    world: World, tablet: DeviceKeyPair
) -> None:
    world.stack.realm.revoke(tablet)
    service = await world.stack.start()
    alice = await world.stack.device(world.alice_pair, service.public_port)
    await alice.send_text("bob")
    await until(lambda: service.runtime.metrics.get_sample_value(DELETED) == 2)


async def test_a_device_that_renewed_keeps_what_waits_though_its_old_key_was_revoked(
    world: World, tablet: DeviceKeyPair
) -> None:
    realm = world.stack.realm
    renewed = realm.renew(tablet)
    realm.revoke(tablet, key_info_pb2.REVOCATION_REASON_COMPROMISED)
    world.directory.tell("bob", kind=REVOKED, fingerprint=tablet.fingerprint)
    await world.event_arrived()
    await world.send("three")
    assert await waiting(world, renewed) == 3


async def test_what_a_compromised_key_vouched_for_loses_its_mailbox_too(world: World) -> None:
    realm, since = world.stack.realm, world.stack.clock()
    tablet = realm.approve(world.bob_pair)
    world.stack.clock.advance(1)
    thief = realm.approve(tablet)
    await world.event()
    await world.send("one")
    realm.revoke(tablet, key_info_pb2.REVOCATION_REASON_COMPROMISED, since)
    record = realm.key_record("bob")
    assert record.get(thief.fingerprint).is_good, "of a CA that leaves it to others to see"
    assert revoked_devices(record) == {tablet.address, thief.address}
    world.directory.tell("bob", kind=REVOKED, fingerprint=tablet.fingerprint)
    await until(lambda: world.counted(DELETED) == 2)


async def test_while_the_directory_is_away_it_is_tried_again(world: World, tablet: DeviceKeyPair) -> None:
    world.directory.away = True
    revoke(world, tablet)
    await world.event_arrived()
    world.directory.away = False
    await until(lambda: world.counted(DELETED) == 2)


async def test_the_log_says_of_which_device_how_much_was_deleted(stack: Stack) -> None:
    world, output = World(stack), io.StringIO()
    tablet = stack.realm.approve(world.bob_pair)
    log = make_logger("delivery", "info", "json", output)
    async with running("delivery", stack.settings(), compose, clock=stack.clock, log=log) as world.service:
        world.alice = await world.device(world.alice_pair)
        await world.send("one")
        revoke(world, tablet)
        await until(lambda: world.counted(DELETED) == 1)
    (said,) = [line for line in map(json.loads, output.getvalue().splitlines()) if "deleted" in line]
    assert (said["device"], said["deleted"]) == (str(tablet.address), 1)


class HeldRecords:
    """Records that are had once the test says so."""

    def __init__(self, record: KeyRecord) -> None:
        self.record = record
        self.asked: list[int] = []
        self.there = asyncio.Event()

    async def at_least(self, username: str, revision: int) -> KeyRecord:
        assert username == self.record.username
        self.asked.append(revision)
        await self.there.wait()
        return self.record


async def test_a_revocation_told_while_the_one_before_is_looked_up_is_looked_up_too(stack: Stack) -> None:
    bob = stack.realm.enroll("bob")
    stack.realm.revoke(bob)
    records = HeldRecords(stack.realm.key_record("bob"))
    emptying = Emptying(
        None,  # type: ignore[arg-type]  # never asked
        records,  # type: ignore[arg-type]  # all that is called
        Metrics(CollectorRegistry()),
        make_logger("delivery", "error", "json", io.StringIO()),
        on_change=lambda _why: None,
        first_pause_seconds=0.001,
    )
    emptying.revoked("bob", 2)
    task = asyncio.create_task(emptying.run())
    await until(lambda: records.asked == [2])
    emptying.revoked("bob", 3)
    records.there.set()
    await until(lambda: records.asked == [2, 3, 3, 3, 3, 3])
    task.cancel()


class AwayOnce:
    """Mailboxes that do not answer the first time."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes
        self.asked = 0

    async def empty(self, address: Address) -> int:
        self.asked += 1
        if self.asked == 1:
            raise MailboxesUnavailableError("away")
        return await self._mailboxes.empty(address)


async def test_while_the_mailboxes_are_away_it_is_tried_again(stack: Stack) -> None:
    bob = stack.realm.enroll("bob")
    stack.realm.revoke(bob)
    changes: list[str | None] = []
    registry = CollectorRegistry()
    async with open_mailboxes(stack.valkey.url) as opened:
        await append(opened.mailboxes, posting(b"1", bob.address))
        emptying = Emptying(
            AwayOnce(opened.mailboxes),  # type: ignore[arg-type]  # all that is called
            None,  # type: ignore[arg-type]  # never asked
            Metrics(registry),
            make_logger("delivery", "error", "json", io.StringIO()),
            on_change=changes.append,
            first_pause_seconds=0.001,
        )
        emptying.saw(None, stack.realm.key_record("bob"))
        task = asyncio.create_task(emptying.run())
        await until(lambda: None in changes)
        task.cancel()
    assert changes == ["mailboxes of revoked devices are not emptied yet", None]
    assert registry.get_sample_value(DELETED) == 1


class Slow:
    """Mailboxes that are emptied once the test says so."""

    def __init__(self) -> None:
        self.asked = 0
        self.go_on = asyncio.Event()

    async def empty(self, _address: Address) -> int:
        self.asked += 1
        await self.go_on.wait()
        return 1


async def test_what_is_noted_while_a_mailbox_is_emptied_empties_it_again(stack: Stack) -> None:
    bob, mailboxes, registry = stack.realm.enroll("bob"), Slow(), CollectorRegistry()
    emptying = Emptying(
        mailboxes,  # type: ignore[arg-type]  # all that is called
        None,  # type: ignore[arg-type]  # never asked
        Metrics(registry),
        make_logger("delivery", "error", "json", io.StringIO()),
        on_change=lambda _why: None,
    )
    task = asyncio.create_task(emptying.run())
    emptying.empty([bob.address])
    await until(lambda: mailboxes.asked == 1)
    emptying.empty([bob.address])
    mailboxes.go_on.set()
    await until(lambda: registry.get_sample_value(DELETED) == 2)
    task.cancel()
