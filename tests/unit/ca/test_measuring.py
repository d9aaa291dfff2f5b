"""What the CA asks its database now and then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from sqlalchemy import text

from keypost.clock import DAY
from keypost_services.ca.engine import open_engine
from keypost_services.ca.measuring import Measuring
from keypost_services.ca.metrics import Metrics
from keypost_services.ca.migrate import migrate
from keypost_services.ca.store import StoreAwayError
from keypost_services.ca.store_sql import SqlStore, good_keys_ending
from support.clock import ManualClock

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Database:
    """Answers as the test says."""

    def __init__(self) -> None:
        self.away = False
        self.asked: list[tuple[int, int]] = []

    async def newest_sequence(self) -> int:
        if self.away:
            raise StoreAwayError("away")
        return 7

    async def count_ending(self, from_time: int, until_time: int) -> int:
        self.asked.append((from_time, until_time))
        return (until_time - from_time) // DAY


async def test_the_newest_event_and_the_keys_that_end_are_said() -> None:
    database = Database()
    registry = CollectorRegistry()
    looking = Measuring(database, ManualClock(), Metrics(registry), lambda _: None)  # type: ignore[arg-type]
    await looking.look(keys=True)
    assert registry.get_sample_value("keypost_ca_newest_sequence") == 7
    ending = [registry.get_sample_value("keypost_ca_keys_ending", {"within": name}) for name in ("1d", "7d", "30d")]
    assert ending == [1, 7, 30]
    await looking.look(keys=False)
    assert len(database.asked) == 3


async def test_a_database_that_is_away_is_said_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keypost_services.ca.measuring.SEQUENCE_SECONDS", 0.001)
    database = Database()
    database.away = True
    heard = asyncio.Queue[str | None]()
    looking = Measuring(database, ManualClock(), Metrics(CollectorRegistry()), heard.put_nowait)  # type: ignore[arg-type]
    running = asyncio.create_task(looking.run())
    async with asyncio.timeout(10):
        assert await heard.get() == "away"
        database.away = False
        while await heard.get() is not None:
            pass
    running.cancel()
    # Counted at the first look that succeeds, not at the first.
    assert len(database.asked) == 3


async def test_keys_are_counted_by_an_index_alone(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'ca.db'}")
    await migrate(engine)
    async with engine.connect() as connection:
        query = good_keys_ending(5, 9).compile(connection.sync_engine, compile_kwargs={"literal_binds": True})
        plan = [row[-1] for row in await connection.execute(text(f"EXPLAIN QUERY PLAN {query}"))]
    await engine.dispose()
    assert plan == [
        "SEARCH device_keys USING COVERING INDEX ix_device_keys_expire_time_state (expire_time>? AND expire_time<?)"
    ]


async def test_questions_and_failures_are_measured(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'ca.db'}")
    await migrate(engine)
    registry = CollectorRegistry()
    store = SqlStore(engine, Metrics(registry))
    await store.keep_secret("one", b"two")
    await store.newest_sequence()
    counts = [
        registry.get_sample_value("keypost_ca_database_seconds_count", {"kind": kind}) for kind in ("read", "write")
    ]
    assert counts == [1, 1]
    assert registry.get_sample_value("keypost_ca_database_errors_total") == 0
    await engine.dispose()
