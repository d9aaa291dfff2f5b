"""A run that fails leaves its report all the same: that is when it is read."""

from __future__ import annotations

import json
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from keypost_services.embedded.guard import Guard
from keypost_services.embedded.processes import StackFailedError
from support.faults import __main__ as soak
from support.faults import running
from support.faults.faults import Fault, Kind
from support.faults.parts import Memory
from support.faults.report import as_json
from support.faults.running import Endured, Outcome
from support.faults.stack import Stack
from support.faults.watching import Bell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from support.faults.checking import Difference

NOBODY = Fault(Kind.KILL, "nobody")


@asynccontextmanager
async def empty_stack(folder: Path, *_: Any) -> AsyncIterator[Stack]:
    """Yield a stack of no parts: all of its traffic flows, and whatever happens to a part fails."""
    yield Stack(folder, Bell(), Guard())


@asynccontextmanager
async def no_stack(*_: Any) -> AsyncIterator[Stack]:
    raise StackFailedError("there is no room")
    yield


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run ``make soak`` over a stack, and return its exit code and its report."""

    def of(stack: Any, *faults: Fault, differences: tuple[Difference | str, ...] = ()) -> dict[str, Any]:
        monkeypatch.setattr(running, "running_stack", stack)
        monkeypatch.setattr(running, "find_differences", lambda *_, **__: list(differences))
        monkeypatch.setattr(soak, "endless_faults", lambda *_: iter([(fault,) for fault in faults]))
        path = tmp_path / "soak.json"
        monkeypatch.setattr(sys, "argv", ["soak", "--minutes", "1", "--seed", "7", "--report", str(path)])
        code = soak.main()
        return {"code": code, **json.loads(path.read_text())}

    return of


def test_a_run_that_went_well(report: Callable[..., dict[str, Any]]) -> None:
    told = report(empty_stack)
    assert (told["code"], told["failure"], told["seed"], told["faults"]) == (0, None, 7, [])
    assert told["messages"]["sends_begun"] == 0


def test_a_fault_that_nothing_came_back_from(
    report: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    told = report(empty_stack, NOBODY)
    assert (told["code"], told["failure"]) == (1, "KeyError: 'nobody'")
    assert [(fault["target"], fault["recovery"]) for fault in told["faults"]] == [("nobody", None)]
    assert told["messages"]["sends_begun"] == 0
    assert "KeyError: 'nobody'" in capsys.readouterr().err


def test_differences(report: Callable[..., dict[str, Any]]) -> None:
    told = report(empty_stack, differences=("bob-1: lost: message 3", "bob-2: doubled: message 4"))
    assert told["code"] == 1
    assert told["differences"] == ["bob-1: lost: message 3", "bob-2: doubled: message 4"]
    assert told["failure"] == "\n".join(told["differences"])


def test_a_stack_that_does_not_start(report: Callable[..., dict[str, Any]]) -> None:
    told = report(no_stack)
    assert (told["code"], told["failure"], told["seed"]) == (1, "StackFailedError: there is no room", 7)


def test_everything_is_told() -> None:
    outcome = Outcome(
        seed=7,
        seconds=61.26,
        endured=[
            Endured(Fault(Kind.KILL, "ca"), 1.04, 0.256),
            Endured(Fault(Kind.KILL, "delivery"), 2.0, 3.0),
            Endured(Fault(Kind.FREEZE, "valkey", 7.0), 9.0, None),
        ],
        counts={"sends_returned": 12},
        memory=[Memory("ca", 4711, first=10, last=20, seconds=60.0)],
        failure="TooLateError: late",
    )
    told = as_json(outcome)
    assert json.loads(json.dumps(told)) == told
    assert told == {
        "failure": "TooLateError: late",
        "seed": 7,
        "seconds": 61.3,
        "faults": [
            {"kind": "kill", "target": "ca", "seconds": 0.0, "size": 0, "began": 1.0, "recovery": 0.26},
            {"kind": "kill", "target": "delivery", "seconds": 0.0, "size": 0, "began": 2.0, "recovery": 3.0},
            {"kind": "freeze", "target": "valkey", "seconds": 7.0, "size": 0, "began": 9.0, "recovery": None},
        ],
        "faults_by_kind": {
            "freeze": {"faults": 1, "longest_recovery": 0.0},
            "kill": {"faults": 2, "longest_recovery": 3.0},
        },
        "messages": {"sends_returned": 12},
        "longest_recovery": 3.0,
        "memory": [{"part": "ca", "pid": 4711, "first": 10, "last": 20, "seconds": 60.0}],
        "differences": [],
    }
