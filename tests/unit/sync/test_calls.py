from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from keypost.errors import InvalidArgumentError, RefusedError
from keypost.sync import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.simulation import Services

word = contextvars.ContextVar("word", default="")


class Interrupted(BaseException):
    """What a signal handler of the application raises, as Ctrl-C does KeyboardInterrupt."""


@pytest.fixture
def interruption() -> Iterator[Any]:
    """A fault of the services: there is no answer, and a signal interrupts the main thread, which waits for it."""

    def interrupt(_number: int, _frame: Any) -> None:
        raise Interrupted

    async def fault(_context: Any) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        await asyncio.get_running_loop().create_future()

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield fault
    signal.signal(signal.SIGUSR1, before)


def texts(client: Client) -> list[str]:
    return [message.text for message in client.receive(follow=False)]


def test_messages_and_files_go_to_and_fro(alice: Client, bob: Client, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 300_000)
    alice.send("bob", "hello")
    alice.send_file("bob", path)
    bodies = [
        b"".join(message.file.chunks()) if message.file else message.body for message in bob.receive(follow=False)
    ]
    assert bodies == [b"hello", path.read_bytes()]
    bob.send("alice", "answer")
    assert texts(alice) == ["answer"]


@pytest.mark.usefixtures("bob")
async def test_it_works_in_a_notebook_where_a_loop_runs_already(alice: Client) -> None:
    assert asyncio.get_running_loop().is_running()
    assert alice.send("bob", "hello").counter == 1


def test_many_threads_use_it_at_once(alice: Client, bob: Client) -> None:
    with ThreadPoolExecutor(8) as threads:
        sent = list(threads.map(lambda number: alice.send("bob", str(number)), range(16)))
    assert sorted(each.counter for each in sent) == list(range(1, 17))
    assert sorted(texts(bob), key=int) == [str(number) for number in range(16)]


def test_an_error_keeps_its_class_and_where_it_came_from(alice: Client) -> None:
    with pytest.raises(RefusedError) as caught:
        alice.keys("nobody")
    assert caught.value.reason == "USER_NOT_FOUND"
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert files[0] == __file__
    assert any(file.endswith("keypost/client/client.py") for file in files)


def test_arguments_that_are_none_are_said_as_of_any_function(alice: Client) -> None:
    with pytest.raises(TypeError, match="missing"):
        alice.send("bob")  # type: ignore[call-arg]


def test_callbacks_see_the_context_of_the_call(open_client: Callable[..., Client]) -> None:
    seen: list[str] = []
    alice = open_client("alice", observer=lambda _step: seen.append(word.get()))
    word.set("request 7")
    alice.enroll("alice")
    assert set(seen) == {"request 7"}


@pytest.mark.parametrize("call", [Client.devices, Client.close])
def test_a_callback_that_calls_its_client_is_told_and_does_not_wait_for_ever(
    open_client: Callable[..., Client], call: Callable[[Client], object], caplog: pytest.LogCaptureFixture
) -> None:
    alice: Client = open_client("alice", observer=lambda _step: call(alice))
    alice.enroll("alice")
    failures = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert failures
    assert all(isinstance(error, InvalidArgumentError) and "a callback" in str(error) for error in failures)
    assert alice.devices().username == "alice"


@pytest.mark.usefixtures("bob")
def test_an_interrupted_call_is_cancelled_and_the_client_goes_on(
    alice: Client, services: Services, interruption: Any
) -> None:
    services.faults["GetKeyInfo"] = [interruption]
    with pytest.raises(Interrupted):
        alice.keys("bob")
    assert alice._client._under_way == 0
    assert alice.keys("bob").username == "bob"


@pytest.mark.usefixtures("bob")
@pytest.mark.parametrize("begun", [True, False])
def test_a_call_that_is_interrupted_as_it_begins_is_cancelled_too(
    alice: Client, services: Services, monkeypatch: pytest.MonkeyPatch, *, begun: bool
) -> None:
    """A signal may come while the loop has the call already, and the caller does not know it yet."""
    loop, under_way = alice._thread._loop, threading.Event()
    hand_over = loop.call_soon_threadsafe

    async def fault(_context: Any) -> None:
        under_way.set()
        await asyncio.get_running_loop().create_future()

    def hand_over_and_be_interrupted(*callback: Any) -> None:
        monkeypatch.setattr(loop, "call_soon_threadsafe", hand_over)
        if begun:
            hand_over(*callback)
            assert under_way.wait(10)
        raise Interrupted

    services.faults["GetKeyInfo"] = [fault] if begun else []
    monkeypatch.setattr(loop, "call_soon_threadsafe", hand_over_and_be_interrupted)
    with pytest.raises(Interrupted):
        alice.keys("bob")
    assert alice._client._under_way == 0
    assert alice.keys("bob").username == "bob"


def test_an_interrupted_iteration_has_ended_and_another_may_begin(
    alice: Client, bob: Client, services: Services, interruption: Any
) -> None:
    services.faults["Receive"] = [interruption]
    with pytest.raises(Interrupted):
        next(bob.receive())
    assert bob._client._tasks == set()
    alice.send("bob", "hello")
    assert texts(bob) == ["hello"]


def test_an_interrupted_opening_leaves_nothing_behind(
    open_client: Callable[..., Client], services: Services, interruption: Any
) -> None:
    services.faults["GetRealmTrust"] = [interruption]
    with pytest.raises(Interrupted):
        open_client("alice")
    assert open_client("alice").realm == "example.org"
