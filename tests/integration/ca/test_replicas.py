"""Several CA processes on one PostgreSQL, killed in the middle, and PostgreSQL too."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2
from typer.testing import CliRunner

from keypost_services.ca.command_line import app
from keypost_services.ca.engine import open_engine
from keypost_services.ca.store_sql import SqlStore
from support.ca_database import postgres_database
from support.ca_replicas import Devices, Directory, running_replicas
from support.postgres import SERVING_PASSWORD, running_postgres
from support.trust_statements import FIRST_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keypost_services.ca.store import Event, User
    from support.ca_replicas import Replica
    from support.postgres import PostgresServer

USERS = [f"user{number}" for number in range(6)]
RENEWALS = 7
CHANGES = len(USERS) * (1 + RENEWALS)
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


async def kept(url: str) -> tuple[Mapping[str, User], list[Event]]:
    """Return what stands in the database: users and events."""
    engine = open_engine(url)
    store = SqlStore(engine)
    found = await store.find_users(USERS), list(await store.list_events(0, 1_000))
    await engine.dispose()
    return found


async def kill_one(devices: Devices, replica: Replica) -> None:
    await devices.progress.reach(CHANGES // 5)
    await asyncio.to_thread(replica.kill)
    await devices.progress.reach(2 * CHANGES // 5)
    replica.start()
    await asyncio.to_thread(replica.wait)


async def kill_postgres(devices: Devices, server: PostgresServer, survivor: Replica) -> None:
    """Kill PostgreSQL, start it again, and see a replica say so, both times."""
    await devices.progress.reach(3 * CHANGES // 5)
    states = survivor.database_states()
    assert await anext(states) != NOT_SERVING
    await asyncio.to_thread(server.kill)
    assert await anext(states) == NOT_SERVING
    await asyncio.to_thread(server.start)
    assert await anext(states) == SERVING


async def test_nothing_that_was_answered_is_lost_and_every_event_is_seen_once_in_order(tmp_path: Path) -> None:
    with running_postgres() as server, postgres_database(server) as name:
        url = server.serving_url(name)
        with running_replicas(tmp_path, url, 3) as replicas:
            devices = Devices(replicas)
            directories = [Directory(replicas, stays=False), Directory(replicas[::-1], stays=True)]
            watching = [asyncio.create_task(directory.watch()) for directory in directories]
            async with asyncio.timeout(180):
                living = [devices.live(username, RENEWALS) for username in USERS]
                await asyncio.gather(
                    *living, kill_one(devices, replicas[0]), kill_postgres(devices, server, replicas[1])
                )
                users, events = await kept(url)
                await asyncio.gather(*(directory.progress.reach(len(events)) for directory in directories))
            for task in watching:
                assert not task.done(), task.exception()
                task.cancel()
            assert [await asyncio.to_thread(replica.stop) for replica in replicas] == [True] * 3
        check_nothing_is_lost(devices, users, events)
        for directory in directories:
            seen = [(event.sequence, event.username, event.revision, event.fingerprint) for event in directory.events]
            assert seen == [(event.sequence, event.username, event.revision, event.fingerprint) for event in events]
        verified = await asyncio.to_thread(CliRunner().invoke, app, ["audit", "verify", "--database", url])
        # The realm's first statement is entered once, by whichever replica was first.
        assert f"entries: {FIRST_ENTRIES + CHANGES}\n" in verified.stdout
    check_logs(replicas)


def check_nothing_is_lost(devices: Devices, users: Mapping[str, User], events: list[Event]) -> None:
    """Demand that what was answered is what is kept, and in the events, each change once."""
    assert {name: [key.fingerprint for key in user.keys] for name, user in users.items()} == devices.answered
    assert [event.sequence for event in events] == list(range(1, CHANGES + 1))
    for name, user in users.items():
        assert user.revision == 1 + RENEWALS
        assert [event.revision for event in events if event.username == name] == list(range(1, user.revision + 1))


def check_logs(replicas: list[Replica]) -> None:
    """Demand that no replica met what nobody foresaw, and that no log has the password."""
    for replica in replicas:
        assert SERVING_PASSWORD not in replica.log.read_text(encoding="utf-8")
        assert [line for line in replica.lines if line["event"] == "unforeseen"] == []
    recovered = [line for line in replicas[1].lines if line["event"] == "recovered"]
    assert {line["part"] for line in recovered} == {"database"}
