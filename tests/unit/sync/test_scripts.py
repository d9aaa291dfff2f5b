"""Scripts as people write them, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.people import CHEAP

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost.sync import Client
    from support.clock import ManualClock
    from support.simulation import Services
    from support.tls import TlsFiles

TESTS = Path(__file__).parents[2]
BEGIN = """
import os, sys
from pathlib import Path
from keypost import InvalidArgumentError
from keypost.keys.v1.realm_trust_pb2 import Bundle
from keypost.sync import Client
from support.people import CHEAP

def open_client(name):
    bundle = Bundle.FromString(Path("bundle").read_bytes())
    return Client.open(Path(name), unlock=CHEAP, bundle=bundle, clock=lambda: NOW)
"""


@pytest.fixture
def script(
    services: Services, tls: TlsFiles, clock: ManualClock, tmp_path: Path
) -> Callable[[str], subprocess.Popen[str]]:
    """Starts a script in the folder of the profiles; every warning that it causes is an error on its stderr."""
    (tmp_path / "bundle").write_bytes(services.bundle(tls).SerializeToString())

    def start(text: str) -> subprocess.Popen[str]:
        whole = (BEGIN + textwrap.dedent(text)).replace("NOW", str(clock()))
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", whole],
            cwd=tmp_path,
            env={"PYTHONPATH": str(TESTS), "GRPC_VERBOSITY": "NONE"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return how the script ended, what it printed, and what it complained of."""
    try:
        out, complaints = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, complaints


def test_a_script_answers_until_ctrl_c(script: Any, alice: Client, bob: Client) -> None:
    bob.close()
    process = script("""
        with open_client("bob") as bob:
            try:
                for message in bob.receive():
                    bob.send("alice", message.text.upper())
            except KeyboardInterrupt:
                print("stopped, and", bob.send("alice", "bye").counter, "answers")
    """)
    alice.send("bob", "hello")
    answers = alice.receive()
    assert next(answers).text == "HELLO"
    process.send_signal(signal.SIGINT)
    assert next(answers).text == "bye"
    answers.close()
    assert ended(process) == (0, "stopped, and 2 answers\n", "")


def test_a_script_may_just_end(script: Any, open_client: Any, bob: Client) -> None:
    bob.close()
    process = script("""
        import threading, time
        bob = open_client("bob")
        following = threading.Thread(target=lambda: print([message.text for message in bob.receive()]))
        following.start()
        while not bob._client._tasks:
            time.sleep(0.001)
        print(bob.devices().username)
    """)
    assert ended(process) == (0, "bob\n[]\n", "")
    assert open_client("bob", unlock=CHEAP).address == bob.address


def test_a_forked_process_is_told_and_leaves_its_parents_client_alone(script: Any, bob: Client) -> None:
    bob.close()
    process = script("""
        def complaint(function, *arguments):
            try:
                function(*arguments)
            except InvalidArgumentError as error:
                print(error)

        with open_client("bob") as bob:
            child = os.fork()
            if child:
                print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), bob.devices().username)
            else:
                complaint(bob.devices)
                complaint(open_client, "carol")
                sys.stdout.flush()
    """)
    code, out, complaints = ended(process)
    assert out.splitlines() == [
        "this client was opened before the process forked: open one in each process",
        "a process that had a client was forked: open the first one after forking, or spawn the process",
        "0 bob",
    ]
    assert (code, complaints) == (0, "")


def test_a_process_forked_from_one_with_an_asyncio_client_is_told_before_anything_is_made(
    script: Any, bob: Client, tmp_path: Path
) -> None:
    bob.close()
    process = script("""
        import asyncio, keypost

        async def use(name):
            bundle = Bundle.FromString(Path("bundle").read_bytes())
            async with await keypost.Client.open(Path(name), unlock=CHEAP, bundle=bundle, clock=lambda: NOW) as client:
                print(client.address)

        asyncio.run(use("bob"))
        sys.stdout.flush()
        child = os.fork()
        if child:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        else:
            for attempt in (lambda: asyncio.run(use("carol")), lambda: open_client("carol")):
                try:
                    attempt()
                except InvalidArgumentError as error:
                    print(error, error.metadata)
            sys.stdout.flush()
    """)
    told = (
        "a process that had a client was forked: open the first one after forking, or spawn the process"
        " {'field': 'client'}"
    )
    code, out, complaints = ended(process)
    assert out.splitlines() == [str(bob.address), told, told, "0"]
    assert (code, complaints) == (0, "")
    assert not (tmp_path / "carol").exists()


def test_a_client_may_be_opened_in_each_process_forked_from_one_that_had_none(script: Any, bob: Client) -> None:
    bob.close()
    process = script("""
        child = os.fork()
        if child:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        with open_client("bob") as bob:
            print(bob.devices().username)
            sys.stdout.flush()
    """)
    assert ended(process) == (0, "bob\n0\nbob\n", "")


def test_a_call_in_another_thread_finishes_after_the_main_thread_and_the_next_finds_the_client_closed(
    script: Any, bob: Client
) -> None:
    bob.close()
    process = script("""
        import asyncio, threading
        bob, begun = open_client("bob"), threading.Event()

        async def keys(client, username):
            begun.set()
            async with client._working():
                while not client._closing:
                    await asyncio.sleep(0.001)
                return username

        def work():
            print("finished", bob._thread.run(keys, bob._client, "alice"))
            try:
                bob.devices()
            except InvalidArgumentError as error:
                print(error)

        threading.Thread(target=work).start()
        begun.wait(20)
    """)
    assert ended(process) == (0, "finished alice\nthis client is closed: open another\n", "")
