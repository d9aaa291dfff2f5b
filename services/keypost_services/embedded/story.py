"""The main job, chapter by chapter: two people exchange sealed messages through three services.

Every person is a process of its own; what they report is compared here, and every comparison is a check of the summary.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from keypost.protocol.steps import RENEWAL_TITLES
from keypost_services.embedded.ca_log import STEPS_OF_THE_CA
from keypost_services.embedded.people import Event, Home, Person

if TYPE_CHECKING:
    from pathlib import Path

FILE_BYTES = 4 * 1024 * 1024
FIRST = "Hello Bob. You are offline; this waits for you, and nobody on the way can read it."
SECOND = "This one needs no RSA: the session key stands."
ANSWER = "Good morning Alice. I answer under your session key."
AFTER_RENEWAL = "My key is new, and so is the session key."

Tell = Callable[[Event], None]


class CaSteps(Protocol):
    """Where the CA reports its steps of a renewal."""

    def new_steps(self) -> Iterable[Event]:
        """Return the steps reported since the last call."""


@dataclass(frozen=True)
class Check:
    """One comparison: what was to be shown, whether it was, what was seen, and how long its chapter took."""

    chapter: int
    name: str
    ok: bool
    detail: str


class Notebook:
    """What happened so far: steps by list, checks, chapters with their times; tells each as it happens.

    Args:
        tell: Is called with every event, in order.
        ca_log: Where the CA reports its steps.
    """

    def __init__(self, tell: Tell, ca_log: CaSteps) -> None:
        self.tell = tell
        self._ca_log = ca_log
        self.steps: list[Event] = []
        self.checks: list[Check] = []
        self.seconds: dict[int, float] = {}
        self.titles: dict[int, str] = {}
        self._chapter = 0
        self._begun = 0.0

    def hear(self, event: Event) -> None:
        """Note and tell what a person reports; of the CA's steps, what the CA reports instead."""
        if event["event"] == "step" and event["list"] == "renewal" and event["step"] in STEPS_OF_THE_CA:
            for step in self._ca_log.new_steps():
                self._note_step(step)
        elif event["event"] == "step":
            self._note_step(event)
        else:
            self.tell(event)

    def _note_step(self, step: Event) -> None:
        self.steps.append(step)
        self.tell(step)

    def chapter(self, title: str, *, file: bool = False) -> None:
        """Begin a chapter; ``file``: it is about a file, whose many parts take many steps."""
        self.end_chapter()
        self._chapter += 1
        self._begun = time.monotonic()
        self.titles[self._chapter] = title
        self.tell({"event": "chapter", "chapter": self._chapter, "title": title, "file": file})

    def end_chapter(self) -> None:
        """Note how long the chapter took."""
        if self._chapter:
            self.seconds[self._chapter] = time.monotonic() - self._begun

    def check(self, name: str, ok: bool, detail: str = "") -> None:  # noqa: FBT001  # the outcome of a comparison
        """Note a comparison."""
        self.checks.append(Check(self._chapter, name, ok, detail))

    def taken_since(self, mark: int, list_name: str, username: str = "") -> list[int]:
        """Return the numbers of the steps of a list since ``mark`` (a length of ``steps``), of one user or of all."""
        steps = [step for step in self.steps[mark:] if step["list"] == list_name]
        return [step["step"] for step in steps if step["actor"].startswith(f"{username}/" if username else "")]


@dataclass(frozen=True)
class Scene:
    """Where the story plays: the stack's bundles, the suite, a folder for the people's things, their one-time codes.

    Alice starts from the first bundle, Bob from the last: where there are several replicas they call different ones.
    Without codes they enrol where anybody may.
    """

    bundles: Sequence[Path]
    suite: str
    folder: Path
    codes: Mapping[str, str] = field(default_factory=dict, repr=False)


class Story:
    """The story.

    Args:
        scene: Where it plays.
        notebook: Where everything is noted.
    """

    def __init__(self, scene: Scene, notebook: Notebook) -> None:
        self._scene = scene
        self._note = notebook
        self.alice = Person("alice", self._home("alice", scene.bundles[0]), notebook.hear)
        self.bob = Person("bob", self._home("bob", scene.bundles[-1]), notebook.hear)
        self._first_key_id = ""

    def _home(self, name: str, bundle: Path) -> Home:
        folder = self._scene.folder
        return Home(folder / name, bundle, secrets.token_urlsafe(16), self._scene.suite, folder / f"{name}.log")

    async def play(self) -> None:
        """Play all chapters.

        Raises:
            PersonFailed: somebody could not do what the story asks for; what was checked so far stays noted.
        """
        try:
            await self._enroll()
            await self._write_to_the_offline()
            await self._read()
            await self._write_again()
            await self._answer()
            await self._renew()
            await self._send_file()
        finally:
            self._note.end_chapter()
            await asyncio.gather(self.alice.go_offline(), self.bob.go_offline())

    async def _enroll(self) -> None:
        self._note.chapter("Alice and Bob enrol")
        await asyncio.gather(self.alice.come_online(), self.bob.come_online())
        self._tell_presence(self.alice, online=True)
        self._tell_presence(self.bob, online=True)
        for person in (self.alice, self.bob):
            mark = len(self._note.steps)
            code = self._scene.codes.get(person.name, "")
            enrolled = await person.do("enroll", username=person.name, suite=self._scene.suite, code=code)
            self._note.check(
                f"{person.name} published a key (step 1)",
                self._note.taken_since(mark, "negotiation") == [1]
                and enrolled["address"].startswith(f"{person.name}/"),
                enrolled["address"],
            )
        self._note.check("two processes", self.alice.pid != self.bob.pid, f"{self.alice.pid} and {self.bob.pid}")

    async def _write_to_the_offline(self) -> None:
        self._note.chapter("Alice writes to Bob, who is offline")
        gone_pid = await self.bob.go_offline()
        gone_time = _now()
        self._tell_presence(self.bob, online=False, process=gone_pid)
        mark = len(self._note.steps)
        self._sent = await self.alice.do("send", username="bob", text=FIRST)
        self._first_key_id = self._sent["key_id"]
        self._tell_operations(self.alice, "send", self._sent)
        steps = self._note.taken_since(mark, "negotiation")
        self._note.check("steps 2 to 7 by Alice, in order", steps == list(range(2, 8)), f"{steps}")
        waited = gone_time <= self._sent["accept_time"] and self.bob.pid == 0
        self._note.check("accepted while Bob has no process", waited, f"message {self._sent['message_id'][:13]}…")

    async def _read(self) -> None:
        self._note.chapter("Bob comes online and reads")
        mark, came_time = len(self._note.steps), _now()
        await self.bob.come_online()
        self._tell_presence(self.bob, online=True)
        await asyncio.gather(self.bob.do("listen"), self.alice.do("listen"))
        message = await self._heard_by(self.bob, FIRST)
        steps = self._note.taken_since(mark, "negotiation")
        self._note.check("steps 8 to 14 by Bob, in order", steps == list(range(8, 15)), f"{steps}")
        offline = message["accept_time"] <= came_time
        self._note.check("it had waited for him", offline, f"{came_time - message['accept_time']} ms")

    async def _write_again(self) -> None:
        self._note.chapter("Alice writes again: no RSA")
        sent = await self.alice.do("send", username="bob", text=SECOND)
        self._tell_operations(self.alice, "send", sent)
        message = await self._heard_by(self.bob, SECOND)
        total = sum(sent["rsa_operations"].values()) + sum(message["rsa_operations"].values())
        self._note.check("RSA operations of both: 0", total == 0, f"{total}")
        self._note.check("same session key", sent["key_id"] == self._first_key_id, sent["key_id"][:8])

    async def _answer(self) -> None:
        self._note.chapter("Bob answers under the same session key")
        sent = await self.bob.do("send", username="alice", text=ANSWER)
        self._tell_operations(self.bob, "send", sent)
        await self._heard_by(self.alice, ANSWER)
        same = sent["key_id"] == self._first_key_id and not sent["new_session"]
        self._note.check("same session key", same, sent["key_id"][:8])

    async def _renew(self) -> None:
        self._note.chapter("Alice renews her key by the eight steps and writes again")
        mark = len(self._note.steps)
        renewed = await self.alice.do("renew")
        steps = self._note.taken_since(mark, "renewal")
        self._note.check("eight steps, in order", steps == list(RENEWAL_TITLES), f"{steps}")
        at_ca = {step["process"] for step in self._note.steps[mark:] if step["actor"] == "ca"}
        apart = len(at_ca) == 1 and self.alice.pid not in at_ca
        self._note.check("steps 5 to 7 by the CA's own account", apart, f"process {at_ca}")
        mark = len(self._note.steps)
        sent = await self.alice.do("send", username="bob", text=AFTER_RENEWAL)
        self._tell_operations(self.alice, "send", sent)
        await self._heard_by(self.bob, AFTER_RENEWAL)
        self._note.check("new session key", sent["key_id"] != self._first_key_id, sent["key_id"][:8])
        # Two processes report: only the order within each is certain.
        both = [self._note.taken_since(mark, "negotiation", name) for name in ("alice", "bob")]
        again = both == [list(range(2, 8)), list(range(8, 15))]
        self._note.check("steps 2 to 14 again", again, f"key {renewed['fingerprint'][:8]}")

    async def _send_file(self) -> None:
        self._note.chapter(f"A file of {FILE_BYTES // 1024 // 1024} MiB goes across", file=True)
        path = self._scene.folder / "holiday.bin"
        content = os.urandom(FILE_BYTES)
        path.write_bytes(content)
        sent = await self.alice.do("send_file", username="bob", path=str(path))
        message = await self.bob.next_message()
        self._tell_message(self.bob, message)
        expected, got = hashlib.sha256(content).hexdigest(), message["file"]["sha256_of_saved"]
        same = expected == sent["sha256"] == got
        self._note.check("SHA-256 before and after", same, f"{expected[:8]}… and {got[:8]}…")

    async def _heard_by(self, person: Person, text: str) -> Event:
        """Wait for the person's next message and compare its text."""
        message = await person.next_message()
        self._tell_message(person, message)
        self._note.check(
            f"{person.name} reads what was written", message.get("text") == text, f"{len(text)} characters"
        )
        return message

    def _tell_message(self, person: Person, message: Event) -> None:
        self._note.tell({**message, "actor": person.name})
        self._tell_operations(person, "receive", message)

    def _tell_operations(self, person: Person, what: str, event: Event) -> None:
        kinds = event["rsa_operations"]
        facts = {"actor": person.name, "process": event["process"], "what": what}
        self._note.tell({"event": "rsa_operations", **facts, "total": sum(kinds.values()), "by_kind": kinds})

    def _tell_presence(self, person: Person, *, online: bool, process: int | None = None) -> None:
        pid = person.pid if process is None else process
        self._note.tell({"event": "presence", "actor": person.name, "process": pid, "online": online, "time": _now()})


def _now() -> int:
    return time.time_ns() // 1_000_000


def summary(notebook: Notebook, failure: str | None) -> dict[str, Any]:
    """Return the closing event: every check, every chapter's time, and whether all is well."""
    ok = failure is None and bool(notebook.checks) and all(check.ok for check in notebook.checks)
    checks: Sequence[dict[str, Any]] = [
        {"chapter": check.chapter, "name": check.name, "ok": check.ok, "detail": check.detail}
        for check in notebook.checks
    ]
    chapters = [
        {"chapter": number, "title": title, "seconds": round(notebook.seconds.get(number, 0.0), 3)}
        for number, title in notebook.titles.items()
    ]
    return {"event": "summary", "ok": ok, "failure": failure, "chapters": chapters, "checks": checks}
