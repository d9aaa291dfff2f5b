"""People who use the command line, each with a profile of their own; every command is a process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keypost.cli.events import BODY, FIELDS, OWN_KEY, PEERS_KEY
from support.stack import json_lines, keypost

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keypost_services.embedded.stack import Stack


@dataclass(frozen=True)
class Failure:
    """How a command failed: its exit code, and what it said on standard error."""

    code: int
    sentence: str


@dataclass(frozen=True)
class User:
    """A user of the command line."""

    stack: Stack
    name: str
    profile: Path

    def run(self, *arguments: str, **more: Any) -> str:
        """Run a command that succeeds; return its standard output. Keywords as ``support.stack.keypost``."""
        done = keypost(self.stack, self.profile, *arguments, **more)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def run_json(self, *arguments: str, options: tuple[str, ...] = (), **more: Any) -> list[dict[str, Any]]:
        """Run a command that succeeds; return the objects that it printed."""
        events = json_lines(self.run(*arguments, options=("--json", *options), **more).encode())
        for event in events:
            _assert_as_listed(event)
        return events

    def fail(self, *arguments: str, **more: Any) -> Failure:
        """Run a command that fails, as it should: with sentences, and nothing on standard output."""
        done = keypost(self.stack, self.profile, *arguments, **more)
        sentence = done.stderr.decode()
        assert done.returncode != 0
        assert "Traceback" not in sentence
        assert done.stdout == b""
        return Failure(done.returncode, sentence)

    def fail_json(
        self, *arguments: str, options: tuple[str, ...] = (), variables: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Run a command that fails, as it should: with one object, and nothing on standard error."""
        done = keypost(self.stack, self.profile, *arguments, options=("--json", *options), variables=variables)
        (error,) = json_lines(done.stdout)
        assert done.returncode != 0
        assert error["event"] == "error"
        _assert_as_listed(error)
        assert done.stderr == b""
        return done.returncode, error


def _assert_as_listed(event: dict[str, Any]) -> None:
    """Fail unless an event has the fields that the table of events names."""
    kind = event["event"]
    fields = [name for name in event if name != "event" and not (kind == "message" and name in BODY)]
    assert tuple(fields) == FIELDS[kind], kind
    rows = {"keys": PEERS_KEY, "devices": OWN_KEY}.get(kind)
    assert all(tuple(row) == rows for row in event.get("rows", ())), kind
