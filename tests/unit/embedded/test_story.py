from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from keypost_services.embedded.story import Notebook, summary
from keypost_services.embedded.tellers import HumanTeller, JsonTeller


class NoCa:
    def new_steps(self) -> list[dict[str, Any]]:
        return [step_event(5, "ca", 99)]


def step_event(step: int, actor: str = "alice/abcdefgh", process: int = 7) -> dict[str, Any]:
    facts = {"fingerprint": "ab" * 32, "bytes": 384}
    named = {"list": "renewal", "title": "a title", "actor": actor, "process": process}
    return {"event": "step", "step": step, "time": 1767225600250, "facts": facts, **named}


def test_what_the_ca_does_is_told_by_the_ca() -> None:
    told: list[dict[str, Any]] = []
    notebook = Notebook(told.append, NoCa())
    notebook.hear(step_event(4))
    notebook.hear(step_event(5, "ca"))
    assert [(event["step"], event["process"]) for event in told] == [(4, 7), (5, 99)]


@pytest.mark.parametrize(
    ("outcomes", "failure", "ok"),
    [([True], None, True), ([True, False], None, False), ([True], "x", False), ([], None, False)],
)
def test_all_is_well_only_if_every_check_holds(outcomes: list[bool], failure: str | None, ok: bool) -> None:  # noqa: FBT001
    notebook = Notebook(list[dict[str, Any]]().append, NoCa())
    notebook.chapter("one")
    for outcome in outcomes:
        notebook.check("a check", outcome)
    notebook.end_chapter()
    assert summary(notebook, failure)["ok"] is ok


def all_events() -> list[dict[str, Any]]:
    message = {"event": "message", "actor": "bob", "process": 1, "sender": "alice/x", "text": "hi\x1b[2J"}
    operations = {"event": "rsa_operations", "actor": "bob", "process": 1, "what": "send"}
    check = {"chapter": 1, "name": "same key", "ok": False, "detail": "ab"}
    chapter = {"chapter": 1, "title": "Begin", "seconds": 0.5}
    where = {"realm": "example.org", "suite": "RSA1024_AES128", "stack": "embedded", "folder": "/x"}
    services = [{"name": "ca", "process": 3, "serves": "127.0.0.1:1"}]
    return [
        {"event": "start", **where, "services": services},
        {"event": "chapter", "chapter": 1, "title": "Begin", "file": False},
        {"event": "presence", "actor": "bob", "process": 1, "online": False, "time": 0},
        step_event(1),
        message,
        {**operations, "total": 0, "by_kind": {}},
        {**operations, "total": 2, "by_kind": {"seal": 1, "sign": 1}},
        {"event": "file_progress", "process": 1, "done": 5, "total": 5},
        {
            "event": "message",
            "actor": "bob",
            "process": 1,
            "file": {"name": "a.bin", "size": 5, "sha256_of_saved": "cd" * 32},
        },
        {"event": "summary", "ok": False, "failure": "why", "chapters": [chapter], "checks": [check], "seconds": 1.0},
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_people_see_every_event(terminal: bool) -> None:  # noqa: FBT001
    stream = io.StringIO()
    teller = HumanTeller(Console(file=stream, width=100, force_terminal=terminal, color_system=None))
    for event in all_events():
        teller.tell(event)
    teller.close()
    shown = stream.getvalue()
    for words in (
        "Begin",
        "offline",
        "a title",
        "abababab",
        "0 RSA operations",
        "seal 1, sign 1",
        "a.bin",
        "FAILED",
        "why",
    ):
        assert words in shown
    assert "\x1b[2J" not in shown


def test_what_is_piped_is_not_wrapped() -> None:
    stream = io.StringIO()
    step = step_event(1)
    step["facts"] = {f"fact_number_{number}": "x" * 20 for number in range(9)}
    HumanTeller(Console(file=stream, width=100)).tell(step)
    (facts,) = (line for line in stream.getvalue().splitlines() if "fact number" in line)
    assert facts.startswith("      fact number 0 ")
    assert facts.endswith("x" * 20)


def test_machines_get_one_object_a_line() -> None:
    stream = io.StringIO()
    teller = JsonTeller(stream)
    for event in all_events():
        teller.tell(event)
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == all_events()
