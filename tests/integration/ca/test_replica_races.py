"""Two replicas on one database are asked at the same moment: one change is made, the other device is told why not."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode

from keypost.protocol.realm_trust import Constants
from keypost.protocol.suites import WEAK
from keypost_services.ca.engine import open_engine
from keypost_services.ca.store_sql import SqlStore
from keypost_services.runtime.errors import ServiceError
from support.ca import CaBench
from support.ca_database import KINDS, ca_database
from support.clock import ManualClock
from support.keys import KeyPool
from support.realm import SimulatedRealm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator
    from pathlib import Path


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ca_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
async def replicas(database: str) -> AsyncIterator[list[CaBench]]:
    clock, keys = ManualClock(), KeyPool()
    realm = SimulatedRealm(clock=clock, constants=Constants(allowed_suites=(WEAK.id,)))
    async with AsyncExitStack() as stack:
        engines = [open_engine(database) for _ in range(2)]
        for engine in engines:
            stack.push_async_callback(engine.dispose)
        yield [CaBench(SqlStore(engine), clock, realm, keys) for engine in engines]


async def answers(*asked: Awaitable[Any]) -> tuple[list[Any], list[tuple[str, StatusCode]]]:
    """Return what was answered and what was refused, by reason and status."""
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
    answered = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(refused) + len(answered) == len(outcomes), outcomes
    return answered, [(error.reason, error.code) for error in refused]


async def test_of_two_renewals_of_one_key_one_is_made(replicas: list[CaBench]) -> None:
    pair = await replicas[0].enroll("alice", suite=WEAK)
    requests = [(await replica.renew_request(pair, WEAK))[1] for replica in replicas]
    asked = (replica.submit_renew(signed) for replica, signed in zip(replicas, requests, strict=True))
    answered, refused = await answers(*asked)
    assert (len(answered), refused) == (1, [("REVISION_TAKEN", StatusCode.ABORTED)])
    assert len((await replicas[0].record("alice")).keys) == 2


async def test_the_same_renewal_twice_is_made_once_and_answered_twice(replicas: list[CaBench]) -> None:
    pair = await replicas[0].enroll("alice", suite=WEAK)
    _, signed = await replicas[0].renew_request(pair, WEAK)
    answered, refused = await answers(*(replica.submit_renew(signed) for replica in replicas))
    assert (len(answered), refused) == (2, [])
    assert {record.revision for record in answered} == {2}
    assert [event.sequence for event in await replicas[0].store.list_events(0, 9)] == [1, 2]


async def test_of_two_first_devices_of_a_user_one_is_enrolled(replicas: list[CaBench]) -> None:
    requests = [(await replica.enroll_request("alice", suite=WEAK))[1] for replica in replicas]
    asked = (replica.submit_enroll(signed) for replica, signed in zip(replicas, requests, strict=True))
    answered, refused = await answers(*asked)
    assert (len(answered), len(refused)) == (1, 1)
    assert refused[0][0] in ("REVISION_TAKEN", "APPROVAL_REQUIRED")
    assert len((await replicas[1].record("alice")).keys) == 1
