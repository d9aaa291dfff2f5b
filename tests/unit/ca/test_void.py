"""What a compromised key takes with it: the CA and every client mean the same keys."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from keypost.keys.v1 import key_info_pb2 as pb
from support.ca import open_bench

if TYPE_CHECKING:
    from keypost.protocol.key_requests import DeviceKeyPair
    from support.ca import CaBench

COMPROMISED = pb.REVOCATION_REASON_COMPROMISED
MOST_KEYS = 9

growth = st.lists(
    st.tuples(st.sampled_from(["approve", "approve", "renew"]), st.integers(0, MOST_KEYS), st.integers(0, 1)),
    min_size=1,
    max_size=MOST_KEYS - 1,
)
"""How a key enters, which of the good ones vouches for it, and how many milliseconds later."""


async def grow(bench: CaBench, steps: list[tuple[str, int, int]]) -> tuple[list[DeviceKeyPair], list[DeviceKeyPair]]:
    """Return all keys of a user whose keys entered so, and those that are good."""
    pairs = [await bench.enroll("alice")]
    good = list(pairs)
    for kind, number, pause in steps:
        bench.clock.advance(pause)
        parent = good[number % len(good)]
        pair = await (bench.renew(parent) if kind == "renew" else bench.approve(parent))
        pairs.append(pair)
        good = [*(one for one in good if kind != "renew" or one is not parent), pair]
    return pairs, good


async def live(steps: list[tuple[str, int, int]], compromised: int, ago: int, signer: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with open_bench(Path(folder)) as bench:
            pairs, good = await grow(bench, steps)
            target, by = pairs[compromised % len(pairs)], good[signer % len(good)]
            record = await bench.revoke(target, by, reason=COMPROMISED, since_time=bench.clock() - ago)
            withdrawn = {key.fingerprint for key in record.keys if key.reason == COMPROMISED}
            void = {key.fingerprint for key in record.keys if record.is_void(key)}
            assert withdrawn == void | {target.fingerprint}
            ended = [event.fingerprint for event in await bench.store.list_events(len(pairs), 99)]
            assert sorted(ended) == sorted(withdrawn)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(steps=growth, compromised=st.integers(0, MOST_KEYS), ago=st.integers(0, 4), signer=st.integers(0, MOST_KEYS))
@example(steps=[("approve", 0, 1), ("renew", 1, 1), ("approve", 1, 1)], compromised=0, ago=3, signer=0)
def test_the_ca_withdraws_exactly_what_clients_call_void(
    steps: list[tuple[str, int, int]], compromised: int, ago: int, signer: int
) -> None:
    asyncio.run(live(steps, compromised, ago, signer))
