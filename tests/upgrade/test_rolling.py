"""From the previous version to this one while people write to each other: nothing is lost, doubled or reordered.

The processes of the previous version run its stored code. Of each user one device begins with it, the other with this
version: so both versions of clients meet both versions of services, and each other. Services are replaced in both
orders: so each version of a service meets the other one of those that it calls.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keypost_services.embedded.processes import clean_environment
from support import previous
from support.faults.checking import DeviceJournal, find_differences
from support.faults.journal import GOT, RAISED, SENT, TOLD
from support.faults.running import Outcome, Run
from support.faults.stack import running_stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from contextlib import AbstractAsyncContextManager

    from support.faults.journal import Line
    from support.faults.parts import Server
    from support.faults.stack import Stack

ORDER = ("ca", "directory", "directory-2", "delivery", "delivery-2")
"""As docs/operations.md says: a service before those that call it."""
BACK = ("directory", "delivery")
"""What goes back to the previous version in the end, beside others of its service that stay."""
OLDER = ("alice-1", "bob-1")
"""The devices that begin with the previous version."""
Keep = Callable[["Server"], None]
WHERE = "import keypost, keypost_services; print(keypost.__file__, keypost_services.__file__, sep='\\n')"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """Where the previous version's code lies."""
    return previous.unpack(previous.CODE, tmp_path / "previous")


def test_the_stored_code_is_what_runs(code: Path) -> None:
    done = subprocess.run(
        previous.python("-c", WHERE),
        env=clean_environment(previous.python_path(code)),
        check=True,
        capture_output=True,
        text=True,
    )
    found = [Path(line) for line in done.stdout.splitlines()]
    assert found == [code / "keypost/__init__.py", code / "keypost_services/__init__.py"]


async def test_one_process_after_the_other(tmp_path: Path, code: Path) -> None:
    outcome = Outcome(seed=0)
    async with previous_stack(tmp_path / "run", code) as stack:
        run = Run(stack, random.Random(0), outcome, lambda _line: None, copies=False)
        async with kept_running(stack) as keep:
            await run.begin()
            os.kill(stack.servers["directory"].pid, signal.SIGKILL)
            for name in ORDER:
                await replace_service(stack, run, name, None, keep)
            for name in OLDER:
                await replace_device(stack, run, name)
            await run.finish()
        everything = {name: device.journal for name, device in stack.devices.items()}
    for older, newer in (("alice-1", "alice-2"), ("bob-1", "bob-2")):
        copies = sorted(line["n"] for line in everything[older].inbox if is_copy(everything[older], line))
        assert copies == sorted(line["n"] for line in everything[newer].of(SENT))
    assert_nothing_but_time(everything.values(), outcome)


async def test_callers_first_and_back_again(tmp_path: Path, code: Path) -> None:
    """``kubectl apply -k`` replaces everything at once: a service may be new before the one that it calls."""
    outcome = Outcome(seed=0)
    async with previous_stack(tmp_path / "run", code) as stack:
        run = Run(stack, random.Random(0), outcome, lambda _line: None, copies=False)
        async with kept_running(stack) as keep:
            await run.begin()
            for name in reversed(ORDER):
                await replace_service(stack, run, name, None, keep)
            for name in BACK:
                await replace_service(stack, run, name, code, keep)
            await run.finish()
        journals = [device.journal for device in stack.devices.values()]
    assert_nothing_but_time(journals, outcome)


def previous_stack(folder: Path, code: Path) -> AbstractAsyncContextManager[Stack]:
    """Start everything as the previous version, but the newer devices."""
    return running_stack(folder, processes=ORDER, code_of=lambda name: code if name in {*ORDER, *OLDER} else None)


def assert_nothing_but_time(everything: Iterable[DeviceJournal], outcome: Outcome) -> None:
    """Check that no call failed, and that nothing was lost, doubled or reordered."""
    journals = [without_copies(journal) for journal in everything]
    raised = [line for journal in journals for line in journal.of(RAISED) if not is_of_previous(journal, line)]
    assert raised == [], "what a call met while a process was replaced is for the SDK to mend"
    differences = find_differences(
        [DeviceJournal(each.name, each.username, telling(each)) for each in journals], copies=False
    )
    assert differences == []
    assert outcome.counts["sends_returned"] > 100


def is_copy(journal: DeviceJournal, line: Line) -> bool:
    """Return whether a device got what its user's other one sent to somebody else."""
    own = line["line"] == GOT and str(line["device"]).startswith(f"{journal.username}-")
    return own and line["to"] != journal.username


def without_copies(journal: DeviceJournal) -> DeviceJournal:
    """Leave out the copies: the previous version sends none."""
    return DeviceJournal(journal.name, journal.username, [line for line in journal.lines if not is_copy(journal, line)])


def telling(journal: DeviceJournal) -> list[Line]:
    return [line for line in journal.lines if not is_of_previous(journal, line)]


def is_of_previous(journal: DeviceJournal, line: Line) -> bool:
    """Return whether a line is what the previous client is known for.

    It takes what a server cancels as it begins to drain for a stranger's answer, and keeps the message. Copies it sets
    aside.
    """
    known = {(RAISED, "UNEXPECTED_ANSWER"), (TOLD, "CONTENT_REFUSED")}
    return journal.name in OLDER and (line["line"], line.get("reason")) in known


@asynccontextmanager
async def kept_running(stack: Stack) -> AsyncIterator[Keep]:
    """Start processes of the previous version anew that end by themselves, as whoever runs services does.

    They may, when several callers connect at once: that version has gRPC exchange its certificate at each connection,
    which tests/attacks/test_connections.py shows. The first test has one end so.

    Yields what is to be called with a process that is of the previous version again.
    """
    keeping: list[asyncio.Task[None]] = []

    def keep(server: Server) -> None:
        server.kept = True
        keeping.append(asyncio.create_task(server.keep_running()))

    for name in ORDER:
        keep(stack.servers[name])
    try:
        yield keep
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)


async def replace_service(stack: Stack, run: Run, name: str, code: Path | None, keep: Keep) -> None:
    """Have a process end in good order, then one of the other version serve in its place, and keys change."""
    part = stack.servers[name]
    part.code, part.kept = code, False
    assert await part.stop(), f"{name} did not drain"
    began = time.monotonic()
    await part.start()
    if code is not None:
        keep(part)
    # The previous directory says that a key is unknown which it cannot ask the CA for: it must have found the CA again.
    ways = [(stack.links[f"{directory}>ca"], name) for directory in ("directory", "directory-2") if name == "ca"]
    await run.flowing(f"after {name}", began, ways)
    for device in ("alice-1", "bob-2"):
        await stack.devices[device].do("renew")
    await run.flowing(f"after {name} and a renewal", time.monotonic())


async def replace_device(stack: Stack, run: Run, name: str) -> None:
    """Have a device end, then one of this version open its profile, with what the previous one set aside, and go on."""
    device = stack.devices[name]
    await device.do("pause")
    await device.do("finish")
    assert await device.stop()
    device.code = None
    await device.start()
    assert await device.do("retry_set_aside") > 0
    await run.flowing(f"after {name}", time.monotonic())
