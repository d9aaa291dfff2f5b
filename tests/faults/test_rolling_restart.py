"""Every process is restarted, one after the other, while people write to each other: the SDK absorbs all of it.

Two replicas of each service, the CA's on PostgreSQL, as docs/operations.md says to run them. Nothing fails that an
application would see: no ``send``, no look-up, no renewal; nothing is lost, doubled or reordered.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from keypost_services.embedded.layout import SHAPES, service_of
from support.faults.checking import find_differences
from support.faults.journal import RAISED, TOLD
from support.faults.running import Outcome, Run
from support.faults.stack import running_stack

if TYPE_CHECKING:
    from pathlib import Path

    from support.faults.stack import Stack

SERVICES = ("ca", "ca-2", "directory", "directory-2", "delivery", "delivery-2")
STORES = ("valkey", "postgres")
CALLS = {"ca": "renew", "postgres": "renew", "directory": "devices", "delivery": "waiting_elsewhere"}
"""What devices ask meanwhile besides sending and receiving, by who answers."""


async def test_every_process_is_restarted_and_no_call_fails(tmp_path: Path) -> None:
    outcome = Outcome(seed=0)
    async with running_stack(tmp_path / "run", SHAPES["postgres"], processes=SERVICES, patient=True) as stack:
        run = Run(stack, random.Random(0), outcome, lambda _line: None)
        await run.begin()
        first = {name: stack.servers[name].pid for name in (*SERVICES, *STORES)}
        for name in (*SERVICES, *STORES):
            await restart(stack, run, name)
        assert all(stack.servers[name].pid != pid for name, pid in first.items())
        await run.finish()
        journals = [device.journal for device in stack.devices.values()]
    raised = [line for journal in journals for line in journal.of(RAISED)]
    told = [line for journal in journals for line in journal.of(TOLD)]
    assert (raised, told) == ([], [])
    assert find_differences(journals, copies=True) == []
    assert outcome.differences == []
    assert outcome.counts["sends_returned"] > 10 * len(first)


async def restart(stack: Stack, run: Run, name: str) -> None:
    """Have a process end in good order and start again, while devices ask whom it stands in for."""
    part, call = stack.servers[name], CALLS.get(service_of(name))
    back = asyncio.Event()

    async def ask(device: str) -> None:
        while not back.is_set():
            await stack.devices[device].do("once", call=call)

    # One device of each user: a key that is renewed must be made known to the other one meanwhile.
    async with asyncio.TaskGroup() as group:
        for device in ("alice-1", "bob-2") if call else ():
            group.create_task(ask(device))
        try:
            assert await part.stop(), f"{name} did not drain"
            await part.start()
        finally:
            back.set()
    await run.flowing(f"after {name}", time.monotonic())
