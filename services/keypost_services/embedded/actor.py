"""One person of the story: a process of its own with a client in it, told what to do by JSON lines on standard input.

It answers by JSON lines on standard output, each with the ``process`` that wrote it: ``step``, ``file_progress``,
``message``, ``listening_failed``, and for every command one ``result`` or ``error``. It ends when standard input ends.
The passphrase of the profile comes from ``KEYPOST_PASSPHRASE``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from keypost.cli.commands import save
from keypost.cli.output import message_as_json
from keypost.cli.steps import step_as_json
from keypost.client import Client
from keypost.errors import KeypostError
from keypost.keystore import Passphrase
from keypost.protocol.rsa import counted
from keypost.protocol.suites import suite_named

if TYPE_CHECKING:
    from keypost.client import Received
    from keypost.protocol.steps import Step

Facts = Mapping[str, Any]


class Reporter:
    """Writes events, one JSON object a line.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def event(self, event: str, /, **facts: Any) -> None:
        """Write one event."""
        self._stream.write(json.dumps({"event": event, "process": os.getpid(), **facts}) + "\n")
        self._stream.flush()

    def step(self, step: Step) -> None:
        """Write a step of the source document."""
        self.event("step", **step_as_json(step))

    def file_progress(self, done: int, total: int) -> None:
        """Write how far a file is."""
        self.event("file_progress", done=done, total=total)


class Actor:
    """Carries out commands with a client.

    Args:
        client: The open client.
        report: Where events go.
        folder: Where received files go.
    """

    def __init__(self, client: Client, report: Reporter, folder: Path) -> None:
        self._folder = folder
        self._client = client
        self._report = report
        self._listening: asyncio.Task[None] | None = None
        self._commands: Mapping[str, Callable[..., Awaitable[Facts]]] = {
            "enroll": self.enroll,
            "listen": self.listen,
            "send": self.send,
            "send_file": self.send_file,
            "renew": self.renew,
        }

    async def obey(self, command: Mapping[str, Any]) -> None:
        """Carry out one command and report its result or its error."""
        arguments = {name: value for name, value in command.items() if name != "do"}
        try:
            facts = await self._commands[command["do"]](**arguments)
        except KeypostError as error:
            self._report.event("error", reason=error.reason, sentence=str(error))
        else:
            self._report.event("result", **facts)

    async def enroll(self, username: str, suite: str, code: str) -> Facts:
        """Enrol, by a one-time code unless it is empty, and return the address."""
        return {"address": str(await self._client.enroll(username, suite=suite_named(suite), code=code or None))}

    async def listen(self) -> Facts:
        """Report what waits and what arrives from now on."""
        self._listening = asyncio.create_task(self._listen())
        return {"address": str(self._client.address)}

    async def _listen(self) -> None:
        try:
            with counted() as operations:
                before: dict[str, int] = {}
                async for message in self._client.receive(follow=True):
                    now = dict(operations.by_kind)
                    taken = {kind: count - before.get(kind, 0) for kind, count in now.items()}
                    before = now
                    facts = message_as_json(message) | await self._save(message)
                    operations_taken = {kind: count for kind, count in taken.items() if count}
                    self._report.event("message", rsa_operations=operations_taken, **facts)
        except KeypostError as error:
            self._report.event("listening_failed", reason=error.reason, sentence=str(error))

    async def _save(self, message: Received) -> dict[str, Any]:
        """Save a file that arrived; return what it is with the SHA-256 of what is on the disk."""
        if message.file is None:
            return {}
        path = await save(message.file, self._folder)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"file": {"name": path.name, "size": path.stat().st_size, "sha256_of_saved": digest}}

    async def send(self, username: str, text: str) -> Facts:
        """Send a text."""
        sent = await self._client.send(username, text)
        return {
            "message_id": str(sent.message_id),
            "key_id": sent.key_id.hex(),
            "new_session": sent.new_session,
            "accept_time": sent.accept_time,
            "rsa_operations": dict(sent.rsa_operations),
        }

    async def send_file(self, username: str, path: str) -> Facts:
        """Send a file."""
        sent = await self._client.send_file(username, Path(path), progress=self._report.file_progress)
        return {"size": sent.size, "sha256": sent.sha256.hex(), "parts": sent.parts}

    async def renew(self) -> Facts:
        """Renew the key pair."""
        key = await self._client.renew()
        return {"fingerprint": key.fingerprint.hex()}

    async def close(self) -> None:
        """Stop listening."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)


async def act(profile: Path, bundle: Path, minimum_suite: str) -> None:
    """Open the client and carry out commands until standard input ends."""
    report = Reporter(sys.stdout)
    client = await Client.open(
        profile,
        unlock=Passphrase(os.environ["KEYPOST_PASSPHRASE"]),
        bundle=bundle,
        observer=report.step,
        minimum_suite=suite_named(minimum_suite),
    )
    async with client:
        actor = Actor(client, report, profile.with_name(f"{profile.name}-files"))
        report.event("result")
        while line := await asyncio.to_thread(sys.stdin.readline):
            await actor.obey(json.loads(line))
        await actor.close()


def main() -> None:
    """Run one actor: ``actor PROFILE BUNDLE MINIMUM_SUITE``."""
    profile, bundle, minimum_suite = sys.argv[1:]
    asyncio.run(act(Path(profile), Path(bundle), minimum_suite))


if __name__ == "__main__":
    main()
