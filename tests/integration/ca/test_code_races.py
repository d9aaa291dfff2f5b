"""A one-time code is used once, whoever else uses it at the same moment: on one database, by processes and replicas."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keypost.clock import DAY
from keypost.protocol.realm_trust import Constants
from keypost.protocol.suites import WEAK
from keypost_services.ca.acts import codes_withdrawn
from keypost_services.ca.audit import NOWHERE, OPERATOR
from keypost_services.ca.engine import open_engine
from keypost_services.ca.store import OneTimeCode
from keypost_services.ca.store_sql import SqlStore
from keypost_services.runtime.errors import ServiceError
from support.ca import CaBench
from support.ca_changes import CHANGED, code_act
from support.ca_database import KINDS, ca_database
from support.clock import ManualClock
from support.code_racer import hash_of_round
from support.keys import KeyPool
from support.realm import SimulatedRealm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ROUNDS = 20
TESTS = Path(__file__).parents[2]


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ca_database(request.param, tmp_path) as url:
        yield url


async def make_codes(database: str) -> None:
    engine = open_engine(database)
    store = SqlStore(engine)
    for number in range(ROUNDS):
        code = OneTimeCode(hash_of_round(number), "anybody", CHANGED + DAY)
        await store.add_code(code, code_act(code))
    await engine.dispose()


def start_racer(database: str, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "support.code_racer", database, name, str(ROUNDS)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line_of(racer: subprocess.Popen[str]) -> str:
    assert racer.stdout is not None
    return racer.stdout.readline().strip()


async def test_two_processes_use_each_code_once(database: str) -> None:
    await make_codes(database)
    racers = [start_racer(database, name) for name in ("a", "b")]
    try:
        assert [await asyncio.to_thread(line_of, racer) for racer in racers] == ["ready"] * 2
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        won = [json.loads(await asyncio.to_thread(line_of, racer)) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert sorted(won[0] + won[1]) == list(range(ROUNDS))
    await check_kept(database, dict.fromkeys(won[0], "a") | dict.fromkeys(won[1], "b"))


async def check_kept(database: str, winners: dict[int, str]) -> None:
    """Demand that each code is used up for the key of its winner, and that nothing of a loser is kept."""
    engine = open_engine(database)
    store = SqlStore(engine)
    users = await store.find_users([f"{name}{number}" for number in winners for name in "ab"])
    assert users.keys() == {f"{name}{number}" for number, name in winners.items()}
    for number, name in winners.items():
        code = await store.find_code(hash_of_round(number))
        assert code is not None
        assert code.used_fingerprint == users[f"{name}{number}"].keys[0].fingerprint
    await engine.dispose()


@asynccontextmanager
async def two_replicas(database: str) -> AsyncIterator[list[CaBench]]:
    clock = ManualClock()
    realm = SimulatedRealm(clock=clock, constants=Constants(allowed_suites=(WEAK.id,)))
    async with AsyncExitStack() as stack:
        engines = [open_engine(database) for _ in range(2)]
        for engine in engines:
            stack.push_async_callback(engine.dispose)
        keys = KeyPool()
        yield [CaBench(SqlStore(engine), clock, realm, keys, open_sign_in=False) for engine in engines]


async def test_two_replicas_enrol_one_device_by_one_code(database: str) -> None:
    async with two_replicas(database) as replicas:
        for name in ("alice", "bob", "carol"):
            proof = await replicas[0].add_code(name)
            requests = [(await replica.enroll_request(name, proof, WEAK))[1] for replica in replicas]
            submitted = (
                replica.submit_enroll(signed, proof) for replica, signed in zip(replicas, requests, strict=True)
            )
            outcomes = await asyncio.gather(*submitted, return_exceptions=True)
            reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, ServiceError)]
            # The other one was between its sign-in and its look at the user, or later.
            assert reasons in (["SIGN_IN_REFUSED"], ["APPROVAL_REQUIRED"])
            assert len((await replicas[0].record(name)).keys) == 1


async def test_one_replica_withdraws_the_code_by_which_another_enrols(database: str) -> None:
    async with two_replicas(database) as (enrolling, withdrawing):
        for name in ("alice", "bob", "carol", "dave"):
            proof = await enrolling.add_code(name)
            _, signed = await enrolling.enroll_request(name, proof, WEAK)
            act = codes_withdrawn(name, OPERATOR, enrolling.clock(), NOWHERE)
            enrolled, withdrawn = await asyncio.gather(
                enrolling.submit_enroll(signed, proof), withdrawing.store.withdraw_codes(act), return_exceptions=True
            )
            assert not isinstance(withdrawn, BaseException), withdrawn
            reasons = [enrolled.reason] if isinstance(enrolled, ServiceError) else []
            exists = name in await enrolling.store.find_users([name])
            # One has won, and the other one says so.
            assert (exists, reasons, len(withdrawn)) in ((True, [], 0), (False, ["SIGN_IN_REFUSED"], 1))
