"""What is kept of a user, and when the directory is asked again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import structlog
from prometheus_client import CollectorRegistry

from keypost.clock import HOUR, SECOND
from keypost.errors import RefusedError, UnreachableError
from keypost.keys.v1 import key_info_pb2
from keypost.protocol.errors import TokenRefusedError
from keypost.protocol.realm_trust import ServedTrust
from keypost.protocol.suites import STRONG, WEAK
from keypost_services.delivery.metrics import Metrics
from keypost_services.delivery.records import CallersRecords, Records
from keypost_services.runtime.device_keys import RecordedDeviceKeys
from keypost_services.runtime.errors import ServiceError
from keypost_services.runtime.realm_trust import TrustKeeper
from support.clock import ManualClock
from support.realm import SimulatedRealm, seeded_signer

if TYPE_CHECKING:
    from collections.abc import Callable


class Directory:
    """A directory in memory; ``gate`` holds answers back after they were made."""

    def __init__(self, realm: SimulatedRealm) -> None:
        self.realm = realm
        self.asked: list[tuple[str, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = False
        self.sequence = 1

    async def get_realm_trust(self) -> ServedTrust:
        return ServedTrust(self.realm.signed_trust(self.sequence))

    async def get_key_info(self, username: str, *, min_revision: int = 0) -> key_info_pb2.KeyInfo:
        self.asked.append((username, min_revision))
        if self.away:
            raise UnreachableError("away")
        if username not in self.realm.users:
            raise RefusedError("USER_NOT_FOUND", "no such user")
        answer = self.realm.key_info(username)
        await self.gate.wait()
        return answer


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.realm = SimulatedRealm(clock=self.clock)
        self.directory = Directory(self.realm)
        log = structlog.wrap_logger(structlog.testing.CapturingLogger())
        self.trust = TrustKeeper(
            self.directory.get_realm_trust,
            self.clock,
            log,
            realm=self.realm.realm,
            root_keys=[self.realm.root.public_key_der],
            on_change=lambda _: None,
        )
        self.registry = CollectorRegistry()
        self.records = Records(self.directory, self.trust, self.clock, Metrics(self.registry), most_users=2)
        self.keys = RecordedDeviceKeys(CallersRecords(self.records, self.trust))


@pytest.fixture
def world() -> World:
    return World()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_many_who_ask_at_once_ask_once(world: World) -> None:
    world.realm.enroll("bob")
    found = await asyncio.gather(*(world.records.current("bob") for _ in range(20)))
    assert {record.revision for record in found} == {1}
    assert len(world.directory.asked) == 1


async def test_the_question_goes_on_if_who_asked_first_goes_away(world: World) -> None:
    world.realm.enroll("bob")
    world.directory.gate.clear()
    first = asyncio.ensure_future(world.records.current("bob"))
    second = asyncio.ensure_future(world.records.current("bob"))
    await until(lambda: bool(world.directory.asked))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    world.directory.gate.set()
    assert (await second).revision == 1
    assert len(world.directory.asked) == 1


async def test_fresh_records_are_kept_and_no_longer(world: World) -> None:
    world.realm.enroll("bob")
    await world.records.current("bob")
    world.clock.advance(HOUR - 1)
    await world.records.current("bob")
    assert len(world.directory.asked) == 1
    world.clock.advance(1)
    await world.records.current("bob")
    assert len(world.directory.asked) == 2


async def test_a_failure_is_not_kept(world: World) -> None:
    world.realm.enroll("bob")
    world.directory.away = True
    for _ in range(2):
        with pytest.raises(ServiceError) as raised:
            await world.records.current("bob")
        assert raised.value.reason == "DIRECTORY_UNAVAILABLE"
    world.directory.away = False
    assert (await world.records.current("bob")).revision == 1


async def test_users_that_do_not_exist_push_nobody_out(world: World) -> None:
    world.realm.enroll("alice")
    world.realm.enroll("bob")
    await world.records.current("alice")
    await world.records.current("bob")
    for name in ("nobody", "noone", "none"):
        with pytest.raises(ServiceError, match="no user"):
            await world.records.current(name)
    await world.records.current("alice")
    await world.records.current("bob")
    assert [name for name, _ in world.directory.asked].count("alice") == 1
    assert [name for name, _ in world.directory.asked].count("bob") == 1


async def test_no_more_users_are_kept_than_allowed(world: World) -> None:
    for name in ("alice", "bob", "carol"):
        world.realm.enroll(name)
        await world.records.current(name)
    await world.records.current("alice")
    assert [name for name, _ in world.directory.asked] == ["alice", "bob", "carol", "alice"]


async def test_an_answer_that_was_overtaken_by_a_later_one_is_no_error(world: World) -> None:
    bob = world.realm.enroll("bob")
    world.directory.gate.clear()
    slow = asyncio.ensure_future(world.records.current("bob"))
    await until(lambda: bool(world.directory.asked))
    world.realm.renew(bob)
    held_back, world.directory.gate = world.directory.gate, asyncio.Event()
    world.directory.gate.set()
    assert (await world.records.at_least("bob", 2)).revision == 2
    held_back.set()
    assert (await slow).revision == 2


async def test_an_answer_from_before_everything_was_dropped_is_asked_for_again(world: World) -> None:
    bob = world.realm.enroll("bob")
    world.directory.gate.clear()
    asking = asyncio.ensure_future(world.records.current("bob"))
    await until(lambda: bool(world.directory.asked))
    world.realm.renew(bob)
    world.records.forget_all()
    world.directory.gate.set()
    assert (await asking).revision == 2
    assert len(world.directory.asked) == 2
    await world.records.current("bob")
    assert len(world.directory.asked) == 2


async def test_a_directory_that_does_not_know_an_event_s_revision_is_not_used(world: World) -> None:
    world.realm.enroll("bob")
    await world.records.current("bob")
    world.records.changed("bob", 2)
    with pytest.raises(ServiceError) as raised:
        await world.records.current("bob")
    assert raised.value.reason == "DIRECTORY_UNAVAILABLE"
    assert world.directory.asked[1:] == [("bob", 2), ("bob", 2)]


async def test_the_key_of_a_caller(world: World) -> None:
    bob = world.realm.enroll("bob")
    assert (await world.keys.find_device_key("bob", bob.fingerprint)).key.address == bob.address


async def test_a_key_newer_than_what_is_held_is_asked_for(world: World) -> None:
    bob = world.realm.enroll("bob")
    await world.records.current("bob")
    renewed = world.realm.renew(bob)
    assert (await world.keys.find_device_key("bob", renewed.fingerprint)).key.fingerprint == renewed.fingerprint
    assert world.directory.asked[-1] == ("bob", 2)


async def test_unknown_keys_do_not_flood_the_directory(world: World) -> None:
    world.realm.enroll("bob")
    for number in range(20):
        with pytest.raises(TokenRefusedError) as raised:
            await world.keys.find_device_key("bob", bytes([number]) * 32)
        assert raised.value.metadata["cause"] == "UNKNOWN_KEY"
    assert len(world.directory.asked) == 2
    world.clock.advance(SECOND)
    with pytest.raises(TokenRefusedError):
        await world.keys.find_device_key("bob", bytes(32))
    assert len(world.directory.asked) == 3


async def test_an_unknown_user_looks_like_an_unknown_key(world: World) -> None:
    with pytest.raises(TokenRefusedError) as raised:
        await world.keys.find_device_key("nobody", bytes(32))
    assert raised.value.metadata["cause"] == "UNKNOWN_KEY"


async def test_without_the_directory_nobody_is_told_that_a_key_is_unknown(world: World) -> None:
    world.directory.away = True
    with pytest.raises(ServiceError) as raised:
        await world.keys.find_device_key("bob", bytes(32))
    assert raised.value.reason == "DIRECTORY_UNAVAILABLE"


async def test_a_key_that_a_compromised_one_vouched_for_is_void(world: World) -> None:
    bob = world.realm.enroll("bob")
    world.clock.advance(SECOND)
    tablet = world.realm.approve(bob)
    world.realm.revoke(bob, key_info_pb2.REVOCATION_REASON_COMPROMISED, since=world.clock() - SECOND)
    with pytest.raises(TokenRefusedError) as raised:
        await world.keys.find_device_key("bob", tablet.fingerprint)
    assert raised.value.metadata["cause"] == "KEY_VOID"


async def test_a_key_of_a_suite_that_the_realm_does_not_allow_is_refused(world: World) -> None:
    weak = world.realm.enroll("bob", WEAK)
    await world.keys.find_device_key("bob", weak.fingerprint)
    world.realm.constants = replace(world.realm.constants, allowed_suites=(STRONG.id,))
    world.clock.advance(2 * SECOND)
    world.directory.sequence = 2
    await world.trust.refresh()
    with pytest.raises(TokenRefusedError) as raised:
        await world.keys.find_device_key("bob", weak.fingerprint)
    assert raised.value.metadata["cause"] == "SUITE_NOT_ALLOWED"


async def test_without_trust_nothing_is_looked_up(world: World) -> None:
    world.realm.enroll("bob")
    world.realm.root = seeded_signer(9)
    with pytest.raises(ServiceError) as raised:
        await world.records.current("bob")
    assert raised.value.reason == "DIRECTORY_UNAVAILABLE"
    assert world.directory.asked == []
