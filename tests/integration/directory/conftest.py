from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.clock import ManualClock
from support.directory import CaHost, DirectoryUnderTest, running_ca, running_directory
from support.realm import SimulatedRealm
from support.valkey import ValkeyServer, running_valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path / "valkey", appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def host(tmp_path: Path, clock: ManualClock) -> AsyncIterator[CaHost]:
    async with running_ca(tmp_path, SimulatedRealm(clock)) as host:
        yield host


@pytest.fixture
async def directory(host: CaHost, clock: ManualClock, valkey: ValkeyServer) -> AsyncIterator[DirectoryUnderTest]:
    async with running_directory(host, clock, valkey.url) as directory:
        yield directory
