"""The main job over real sockets between separate processes, as ``make run JSON=1`` plays it."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from keypost.protocol.steps import NEGOTIATION_TITLES, RENEWAL_TITLES
from keypost_services.embedded.processes import clean_environment
from support.stack import json_lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Event = dict[str, Any]
SERVERS = {"embedded": {"valkey"}, "postgres": {"valkey", "postgres"}, "cluster": {"valkey", "postgres"}}
SERVICES = {"ca", "directory", "delivery"}
PLAYED = (
    ("RSA3072_AES256", "embedded"),
    ("RSA1024_AES128", "embedded"),
    ("RSA3072_AES256", "postgres"),
    ("RSA3072_AES256", "cluster"),
)


@dataclass(frozen=True)
class Played:
    stack: str
    exit_code: int
    events: list[Event]
    temporary: Path

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["event"] == kind]

    def steps(self, list_name: str) -> list[Event]:
        return [event for event in self.of("step") if event["list"] == list_name]

    def in_chapter(self, number: int) -> list[Event]:
        begins = [index for index, event in enumerate(self.events) if event["event"] == "chapter"]
        ends = [*begins[1:], len(self.events)]
        return self.events[begins[number - 1] : ends[number - 1]]

    @property
    def summary(self) -> Event:
        return self.events[-1]


def run_story(temporary: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "keypost_services.embedded", "story", *arguments],
        env=clean_environment({"TMPDIR": str(temporary)}),
        capture_output=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def stories(open_folder: Path) -> Callable[[str, str], Played]:
    """Plays each story once, in whatever order the tests ask."""

    @functools.cache
    def play(suite: str, stack: str) -> Played:
        temporary = open_folder / f"{suite}-{stack}"
        temporary.mkdir()
        done = run_story(temporary, "--json", "--suite", suite, "--stack", stack)
        return Played(stack, done.returncode, json_lines(done.stdout), temporary)

    return play


@pytest.fixture(params=PLAYED, ids="-".join)
def played(request: pytest.FixtureRequest, stories: Callable[[str, str], Played]) -> Played:
    return stories(*request.param)


def who(step: Event) -> str:
    return str(step["actor"]).partition("/")[0]


def test_every_check_holds(played: Played) -> None:
    assert [check for check in played.summary["checks"] if not check["ok"]] == []
    assert played.summary["failure"] is None
    assert played.summary["ok"] is True
    assert played.exit_code == 0


def test_the_fourteen_steps_happen_in_order_each_by_the_right_person(played: Played) -> None:
    first_message = [step for number in (1, 2, 3) for step in played.in_chapter(number) if step["event"] == "step"]
    alice = [(step["step"], who(step)) for step in first_message if who(step) == "alice"]
    bob = [(step["step"], who(step)) for step in first_message if who(step) == "bob"]
    assert alice == [(step, "alice") for step in range(1, 8)]
    assert bob == [(step, "bob") for step in (1, *range(8, 15))]
    assert {step["title"] for step in first_message} == set(NEGOTIATION_TITLES.values())
    assert all(step["list"] == "negotiation" for step in first_message)


def test_the_eight_steps_happen_in_order_three_of_them_at_the_ca(played: Played) -> None:
    actors = [(step["step"], who(step)) for step in played.steps("renewal")]
    assert actors == [(step, "ca" if step in {5, 6, 7} else "alice") for step in RENEWAL_TITLES]


def test_alice_bob_and_the_services_are_separate_processes(played: Played) -> None:
    services = {service["name"]: service["process"] for service in played.of("start")[0]["services"]}
    nodes = {name for name in services if name.startswith("valkey-")}
    more = set() if played.stack == "embedded" else {"ca-2", "delivery-2"}
    assert set(services) - nodes == SERVERS[played.stack] | SERVICES | more
    assert len(nodes) == (6 if played.stack == "cluster" else 0)
    people = {name: {step["process"] for step in played.of("step") if who(step) == name} for name in ("alice", "bob")}
    at_the_ca = {step["process"] for step in played.of("step") if who(step) == "ca"}
    assert at_the_ca == {services["ca"]}
    assert len(people["alice"]) == 1
    assert len(people["bob"]) == 2, "one before he went offline, one after"
    everybody = [*services.values(), *people["alice"], *people["bob"]]
    assert len(set(everybody)) == len(everybody)


def test_bob_is_offline_while_alice_writes(played: Played) -> None:
    writing, reading = played.in_chapter(2), played.in_chapter(3)
    assert [(event["actor"], event["online"]) for event in writing if event["event"] == "presence"] == [("bob", False)]
    gone = next(event["time"] for event in writing if event["event"] == "presence")
    back = next(event["time"] for event in reading if event["event"] == "presence")
    message = next(event for event in reading if event["event"] == "message")
    assert gone <= message["accept_time"] <= back


def test_a_standing_session_needs_no_rsa(played: Played) -> None:
    again = [event for event in played.in_chapter(4) if event["event"] == "rsa_operations"]
    assert [(event["actor"], event["what"], event["total"]) for event in again] == [
        ("alice", "send", 0),
        ("bob", "receive", 0),
    ]
    first = next(event for event in played.in_chapter(2) if event["event"] == "rsa_operations")
    assert first["by_kind"] == {"seal": 1, "sign": 1}


def test_the_answer_keeps_the_session_key_and_the_renewal_changes_it(played: Played) -> None:
    keys = [event["key_id"] for event in played.of("message")]
    assert len(keys) == 5
    assert keys[0] == keys[1] == keys[2]
    assert keys[3] != keys[0]


def test_the_file_arrives_whole(played: Played) -> None:
    progress = played.of("file_progress")
    assert progress[-1]["done"] == progress[-1]["total"] >= 2 * 1024 * 1024
    file = played.of("message")[-1]["file"]
    assert file["size"] == progress[-1]["total"]


def test_nothing_is_left_behind(played: Played) -> None:
    assert list(played.temporary.glob("keypost-*")) == []
    for service in played.of("start")[0]["services"]:
        with pytest.raises(ProcessLookupError):
            os.kill(service["process"], 0)


def test_every_step_says_who_what_when_and_in_which_process(played: Played) -> None:
    for step in played.of("step"):
        assert step["actor"]
        assert step["title"]
        assert step["facts"]
        assert step["time"] > 0
        assert step["process"] > 0


def test_a_stack_that_cannot_start_is_told_and_the_exit_code_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import sys\nif 'keypost_services.delivery' in ' '.join(sys.orig_argv):\n    import os; os._exit(9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "keypost_services.embedded", "story", "--json"],
        env=clean_environment({"TMPDIR": str(tmp_path), "PYTHONPATH": str(tmp_path)}),
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1
    closing = json_lines(done.stdout)[-1]
    assert closing["ok"] is False
    assert "delivery ended with exit code 9" in closing["failure"]


def test_an_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "keypost_services.embedded", "story", "--json"],
        env=clean_environment({"TMPDIR": str(tmp_path)}),
        stdout=subprocess.PIPE,
        # The story fills so small a pipe and waits: it cannot be over before it is interrupted.
        pipesize=4096,
    ) as process:
        assert process.stdout is not None
        events = [json.loads(process.stdout.readline())]
        while events[-1]["event"] != "step":
            events.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGTERM)
        events += json_lines(process.stdout.read())
        assert process.wait(30) == 130
    assert events[-1]["failure"] == "interrupted"
    assert list(tmp_path.iterdir()) == []
    people = [event["process"] for event in events if event["event"] == "presence"]
    for pid in (*people, *(service["process"] for service in events[0]["services"])):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_people_see_the_same_story(tmp_path: Path) -> None:
    done = run_story(tmp_path)
    shown = done.stdout.decode()
    assert done.returncode == 0
    for words in ("Alice and Bob enrol", "CA key info renewal", "0 RSA operations to send", "All 19 checks hold"):
        assert words in shown
    assert "\x1b[" not in shown, "plain when piped"
