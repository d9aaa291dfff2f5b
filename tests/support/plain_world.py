"""Delivery for clients that are not ours: a replica, a realm in memory, and people with stubs and key pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from support.delivery import Stack, open_stack
from support.delivery_world import World
from support.plain_client import PlainDevice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from keypost.protocol.key_info import KeyRecord
    from keypost.protocol.key_requests import DeviceKeyPair


@dataclass
class PlainWorld:
    """Alice, Bob and Mallory, and a replica of delivery between them."""

    stack: Stack
    by_stream: bool = False
    world: World = field(init=False)
    alice: PlainDevice = field(init=False)
    bob: PlainDevice = field(init=False)
    mallory: PlainDevice = field(init=False)

    async def start(self, **settings: object) -> PlainWorld:
        self.world = World(self.stack)
        await self.world.start(**settings)
        self.alice = await self.device(self.world.alice_pair)
        self.bob = await self.device(self.world.bob_pair)
        self.mallory = await self.device(self.stack.realm.enroll("mallory"))
        return self

    async def device(self, pair: DeviceKeyPair) -> PlainDevice:
        """Return a device with a connection of its own."""
        stub = (await self.world.device(pair)).stub
        realm, clock = self.stack.realm.realm, self.stack.clock
        return PlainDevice(pair, realm, clock, self._find_record, stub, by_stream=self.by_stream)

    async def tell(self, username: str, **event: Any) -> None:
        """Let the replica know that a user's record has changed, and return when it does."""
        self.stack.directory.tell(username, **event)
        await self.world.event_arrived()

    async def _find_record(self, username: str) -> KeyRecord:
        return self.stack.realm.key_record(username)

    @property
    def look_ups(self) -> int:
        """How often the directory was asked."""
        return self.stack.directory.asked.total()


@pytest.fixture
async def delivery_stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """What delivery needs; a test that wants other settings starts it by itself."""
    async with open_stack(tmp_path) as stack:
        yield stack


@pytest.fixture
async def plain_world(delivery_stack: Stack) -> PlainWorld:
    return await PlainWorld(delivery_stack).start()
