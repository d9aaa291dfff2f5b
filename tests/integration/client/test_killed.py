"""A device is killed before each of its writes, restarted, and has lost no key and no message.

``KEYPOST_EVERY_WRITE=1`` (``make killed``) tries every write; by default an even sample of them, told in the output.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import json_format

from keypost.client.suspects import ATTEMPTS
from support.crash_story import LARGE
from support.people import FOR_EVER, clock, generate, services, tls
from support.simulation import failing

if TYPE_CHECKING:
    from pathlib import Path

    from support.simulation import Fault, Services
    from support.tls import TlsFiles

__all__ = ["clock", "generate", "services", "tls"]

SAMPLE = 16
"""How many writes are tried by default."""
SLACK = 40
EVERY = "KEYPOST_EVERY_WRITE"
RESTARTED_KEYS = 8
LONG = 60
LONGEST_ANSWER = 2**20

Do = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def do(services: Services, tls: TlsFiles, tmp_path: Path, pytestconfig: pytest.Config) -> AsyncIterator[Do]:
    """Does a job in a process of its own, for people of their own."""
    bundle = tmp_path / "bundle.json"
    bundle.write_text(json_format.MessageToJson(services.bundle(tls)))
    mother = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "support.crash_story"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=pytestconfig.rootpath / "tests",
        limit=LONGEST_ANSWER,
    )

    async def one(what: str, name: str, *, kill_at: int = 0, first_key: int = 0) -> dict[str, Any]:
        assert mother.stdin is not None
        assert mother.stdout is not None
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        job = {"what": what, "name": name, "folder": str(folder), "bundle": str(bundle)}
        mother.stdin.write(json.dumps({**job, "kill_at": kill_at, "first_key": first_key}).encode() + b"\n")
        async with asyncio.timeout(LONG):
            answer: dict[str, Any] = json.loads(await mother.stdout.readline())
        return answer

    yield one
    assert mother.stdin is not None
    mother.stdin.close()
    await mother.wait()


def log_of(folder: Path) -> list[list[str]]:
    """Return what the application was told before the end."""
    file = folder / "log"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def check_came_through(log: list[list[str]], recipient: str, received: list[list[str]]) -> None:
    """Fail unless all that was sent has come, none twice, and nothing that was not sent."""
    before = [entry[1:] for entry in log if entry[0] == "got"] if recipient.startswith("bob") else []
    ids = Counter(message_id for _, message_id, _ in before)
    fresh = [text for text, message_id, again in received if message_id not in ids or again == "first"]
    texts = [text for text, _, _ in before] + fresh
    sent = [entry[2] for entry in log if entry[0] == "sent" and entry[1] == recipient]
    begun = [entry[2] for entry in log if entry[0] == "sending" and entry[1] == recipient]
    assert max(Counter(texts).values(), default=0) <= 1, f"twice: {texts}"
    assert not set(sent) - set(texts), f"lost: {set(sent) - set(texts)}"
    assert set(texts) <= {*begun, "probe"}
    assert "probe" in texts


def check(log: list[list[str]], found: dict[str, Any], name: str) -> None:
    """Fail unless the restarted device is what it was, and acts."""
    enrolled = [entry[1] for entry in log if entry[0] == "enrolled"]
    assert not enrolled or found["address"] == enrolled[0]
    asked = {entry[1] for entry in log if entry[0] == "asked"}
    assert [key for key in found["good"] if key not in asked] == [found["address"]], "a key was lost, or is there twice"
    assert not {"CLONE_SUSPECTED", "DEVICE_KEY_STOLEN", "BACKUP_STALE", "SECOND_STATEMENT"} & set(found["events"])
    assert found["left"] == [0] * 5, "something waits, was set aside, or is on its way for ever"
    check_came_through(log, f"alice-{name}", found["alice"])
    check_came_through(log, f"bob-{name}", found["bob"])
    if found["copies"] is not None:
        # A copy is kept in the transaction that keeps the message: there is one of each, and of nothing else. Files
        # are not copied.
        came = [text for text, _, _ in found["alice"] if text != "file"]
        copied = [text for text, to in found["copies"] if to == f"alice-{name}"]
        assert copied == came, "what Bob sent and what his tablet was told differ"


def points(writes: int) -> list[int]:
    """Return the writes before which to kill."""
    if os.environ.get(EVERY):
        return list(range(1, writes + 1))
    return sorted({1 + number * (writes - 1) // (SAMPLE - 1) for number in range(SAMPLE)})


async def test_killed_before_any_write_it_loses_no_key_and_no_message(
    do: Do, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = await do("story", "whole")
    assert not whole["killed"]
    writes = whole["found"]["writes"]
    tried = points(writes)
    with capsys.disabled():
        sys.stdout.write(f"\nkilled before {len(tried)} of {writes} writes (all of them: {EVERY}=1) ")
    for number in tried:
        name = f"{number}"
        # The last writes differ by a few from one life to the next: one that ends before is checked all the same.
        ended = await do("story", name, kill_at=number)
        assert ended["killed"] or number > writes - SLACK
        again = await do("restart", name, first_key=RESTARTED_KEYS)
        assert again["found"] is not None, f"killed before write {number}, it does not start"
        try:
            check(log_of(tmp_path / name), again["found"], name)
        except AssertionError as error:
            error.add_note(f"killed before write {number}: {log_of(tmp_path / name)}\n{again['found']}")
            raise


async def never(_context: Any) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        pytest.param("Send", never, id="delivery hangs"),
        pytest.param("GetKeyInfo", failing(grpc.StatusCode.UNAVAILABLE, "CA_UNAVAILABLE"), id="no keys"),
    ],
)
async def test_what_is_sent_behind_a_large_message_and_a_file_outlives_the_kill_in_order(
    do: Do, services: Services, tmp_path: Path, method: str, fault: Fault
) -> None:
    await do("meet", "it")
    services.faults[method] = [fault] * FOR_EVER
    assert (await do("hand over", "it"))["killed"]
    services.faults[method] = []
    found = (await do("restart", "it", first_key=RESTARTED_KEYS))["found"]
    # The file had parts that were not begun: it is whole once it was gone on with.
    assert [text for text, _, _ in found["alice"]] == [LARGE, "behind", "file", "probe"]
    check(log_of(tmp_path / "it"), found, "it")


async def test_a_message_that_kills_the_device_that_opens_it_is_set_aside(do: Do, services: Services) -> None:
    services.in_batches = True
    await do("poison", "it")
    ends = [await do("take it in", "it") for _ in range(ATTEMPTS + 1)]
    assert [end["killed"] for end in ends] == [True] * ATTEMPTS + [False]
    found = ends[-1]["found"]
    # What came with it did not wait for it: from the third time on, each is taken in by itself.
    assert found["texts"][-1] == "two"
    assert found["events"] == ["DELIVERED_TOO_OFTEN"]
    assert found["kept"] == ["DELIVERED_TOO_OFTEN"]
    again = await do("take it in", "it")
    assert again["found"] == {"texts": [], "events": [], "kept": ["DELIVERED_TOO_OFTEN"]}


async def test_a_message_that_kills_the_application_that_handles_it_is_set_aside(do: Do, tmp_path: Path) -> None:
    await do("poison", "it")
    ends = [await do("take", "it") for _ in range(ATTEMPTS + 1)]
    assert [end["killed"] for end in ends] == [True] * ATTEMPTS + [False]
    found = ends[-1]["found"]
    assert (found["texts"], found["events"], found["kept"]) == (["two"], ["HANDLED_TOO_OFTEN"], ["HANDLED_TOO_OFTEN"])
    assert [text for _, text in log_of(tmp_path / "it")] == ["one", *["poison"] * ATTEMPTS, "two"]
