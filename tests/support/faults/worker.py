"""One device of the run: a process of its own with a client in it, told what to do by JSON lines on standard input.

It sends to its peers without end, receives, and notes both in its journal; what it notes goes to standard output as
well. Each command is answered by one line ``done`` or ``failed`` with its ``command``. It may be killed at any time
and started again on the same folder. It ends when standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keypost import Client, Passphrase, RefusedError, UnreachableError
from keypost.errors import KeypostError
from keypost.keystore.unlock import Argon2Cost
from keypost.transport.retries import Backoff, Retries
from support.faults.journal import (
    GOT,
    HANDLED,
    KEPT,
    OPENED,
    RAISED,
    SEND,
    SENT,
    TOLD,
    Body,
    Journal,
    digest_of,
    next_number,
    read_lines,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from keypost import Event, Received

UNLOCK = Passphrase("of a test", Argon2Cost(memory=64, iterations=1, lanes=1))
RETRIES = Retries(attempts=3, attempt_timeout=3.0, deadline=6.0, backoff=Backoff(first=0.05, longest=1.0))
"""Shorter than usual, so that a fault need not last long to be longer than the deadlines."""
PATIENT = "patient"
"""The argument by which a device retries as the SDK does unless it is told otherwise."""
BETWEEN_TRIES = Backoff(first=0.1, longest=1.0)
LONGEST_LINE = 1024 * 1024
TOLD_KINDS = ("set_aside", "error")
BEHIND_SECONDS = 2.0
"""Who reads messages that are older than this has more to read than there is time for, and writes less."""


class Device:
    """What the process does.

    Args:
        folder: The device's: ``profile``, ``bundle.json``, ``journal``.
        name: What the run calls the device.
        journal: Where everything is noted.
        client: The client.
    """

    def __init__(self, folder: Path, name: str, journal: Journal, client: Client) -> None:
        self._journal = journal
        self._name = name
        self._client = client
        self._earlier = read_lines(folder / "journal")
        self._numbers: dict[str, int] = {}
        self._senders: dict[str, asyncio.Task[None]] = {}
        self._receiver: asyncio.Task[None] | None = None
        self._pausing = asyncio.Event()
        self._speaking = asyncio.Event()
        self._speaking.set()
        self._caught_up = asyncio.Event()
        self._caught_up.set()

    async def do(self, command: str, **arguments: Any) -> Any:
        """Carry a command out; return what its line is to say."""
        method: Callable[..., Awaitable[Any]] = getattr(self, f"do_{command}")
        return await method(**arguments)

    async def do_enroll(self, username: str) -> str:
        address = str(await self._client.enroll(username))
        self._journal.write(OPENED, address=address)
        return address

    async def do_invite(self) -> str:
        invitation = await _until_done(self._client.invite)
        return str(invitation.text)

    async def do_join(self, invitation: str) -> str:
        return (await self._client.join(invitation)).text

    async def do_approve(self, request: str) -> None:
        await self._client.approve(request)

    async def do_joined(self) -> str:
        address = str(await self._client.joined())
        self._journal.write(OPENED, address=address)
        return address

    async def do_traffic(self, peers: list[str], pause: float, at_once: int, handling: str) -> None:
        """Send to the peers until told to pause, and receive.

        Args:
            peers: The users.
            pause: About how many seconds to think between two messages.
            at_once: How many sends to one user may be under way.
            handling: ``set`` or ``advance``: by which of the two a message counts as handled.
        """
        self._pausing.clear()
        for peer in peers:
            self._senders[peer] = asyncio.create_task(self._send_on(peer, pause, at_once))
        if self._receiver is None:
            self._receiver = asyncio.create_task(self._receive(handling))

    async def do_look_up(self) -> None:
        """Have the directory asked."""
        await _until_done(self._client.devices)

    async def do_list(self) -> None:
        """Have delivery asked, by a call of its own."""
        await _until_done(self._client.waiting_elsewhere)

    async def do_renew(self) -> None:
        """Have the CA asked, and everybody else told."""
        await _until_done(self._client.renew)

    async def do_once(self, call: str) -> None:
        """Make a call of the client's, a single time: whatever it raises is this command's failure."""
        await getattr(self._client, call)()

    async def do_hush(self) -> None:
        """Begin no send before ``speak``: who sends learns of new keys by that."""
        self._speaking.clear()

    async def do_speak(self) -> None:
        """Send again."""
        self._speaking.set()

    async def do_retry_set_aside(self) -> int:
        return int(await _until_done(self._client.retry_set_aside))

    async def do_pause(self) -> dict[str, int]:
        """Send no more, but one last message to each peer, until it is stored; return their numbers."""
        self._pausing.set()
        await asyncio.gather(*self._senders.values())
        last = {}
        for peer in self._senders:
            last[peer] = await self._send_surely(peer)
        return last

    async def do_finish(self) -> None:
        """Receive no more, but what still waits."""
        if self._receiver is not None:
            self._receiver.cancel()
            await asyncio.gather(self._receiver, return_exceptions=True)
        await _until_done(self._receive_rest)

    async def _send_on(self, peer: str, pause: float, at_once: int) -> None:
        turns = asyncio.Semaphore(at_once)
        async with asyncio.TaskGroup() as group:
            while not self._pausing.is_set():
                await turns.acquire()
                await self._speaking.wait()
                await self._catch_up()
                sending = group.create_task(self._send(peer, self._next_number(peer)))
                sending.add_done_callback(lambda _task: turns.release())
                # The application thinks: that is what the run's rate of messages comes from.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(0, 2 * pause)):
                        await self._pausing.wait()

    async def _catch_up(self) -> None:
        """Write one message a second for as long as those that come are old.

        People do not write what nobody has the time to read. On a machine that is too slow for the run's rate, what
        waits would grow for ever, and what is sent after a fault arrive behind all of it.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._caught_up.wait()

    async def _send_surely(self, peer: str) -> int:
        while not await self._send(peer, number := self._next_number(peer)):
            continue
        return number

    def _next_number(self, peer: str) -> int:
        number = self._numbers.get(peer) or next_number(self._earlier, peer)
        self._numbers[peer] = number + 1
        return number

    async def _send(self, peer: str, number: int) -> bool:
        began = time.monotonic()
        body = Body(self._name, peer, number, began).write()
        self._journal.write(SEND, to=peer, n=number, digest=digest_of(body))
        try:
            sent = await self._client.send(peer, body)
        except KeypostError as error:
            facts = {"reason": error.reason, "sentence": str(error), "expected": _may_mend(error)}
            self._journal.write(RAISED, to=peer, n=number, **facts)
            return False
        self._journal.write(SENT, to=peer, n=number, message_id=str(sent.message_id), began=began)
        return True

    async def _receive(self, handling: str) -> None:
        """Receive for ever. That it ends is noted: the application is promised that it notices nothing but time."""
        failures = 0
        while True:
            try:
                async with contextlib.aclosing(self._client.receive()) as messages:
                    async for message in messages:
                        failures = 0
                        self._note(message)
                        if handling == "set":
                            await self._client.set_handled(message)
                            self._journal.write(HANDLED, sequence=message.sequence)
            except KeypostError as error:
                facts = {"reason": error.reason, "sentence": f"receiving ended: {error}"}
                self._journal.write(TOLD, kind="receive", **facts)
            await asyncio.sleep(BETWEEN_TRIES.delay(failures))
            failures += 1

    async def _receive_rest(self) -> None:
        async for message in self._client.receive(follow=False):
            self._note(message)

    def _note(self, message: Received) -> None:
        body = Body.read(message.body)
        facts: dict[str, Any] = {"device": None, "to": None, "n": 0, "began": 0.0}
        if body is not None:
            facts = {"device": body.device, "to": body.to, "n": body.number, "began": body.began}
            if time.monotonic() - body.began > BEHIND_SECONDS:
                self._caught_up.clear()
            else:
                self._caught_up.set()
        self._journal.write(
            GOT,
            **facts,
            digest=digest_of(message.body),
            sender=str(message.sender),
            message_id=str(message.message_id),
            sequence=message.sequence,
            redelivered=message.redelivered,
            missed=message.missed,
            copy=getattr(message, "copy_to", None) is not None,  # the previous version knows of no copies
        )


def _may_mend(error: KeypostError) -> bool:
    """Return whether the same call may succeed later.

    A key that was just renewed is unknown to services that hear nothing from the CA.
    """
    if isinstance(error, RefusedError):
        return error.retriable or error.metadata.get("cause") == "UNKNOWN_KEY"
    return isinstance(error, UnreachableError)


async def _until_done(call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Call again for as long as nobody answers."""
    number = 0
    while True:
        try:
            return await call()
        except KeypostError as error:
            if not _may_mend(error):
                raise
        await asyncio.sleep(BETWEEN_TRIES.delay(number))
        number += 1


def _hear(journal: Journal, event: Event) -> None:
    if event.kind == "waiting" and "message_id" in event.facts:
        journal.write(KEPT, to=event.facts["recipient"], message_id=event.facts["message_id"])
    elif event.kind in TOLD_KINDS:
        journal.write(TOLD, kind=event.kind, reason=event.reason, sentence=event.sentence)


async def _commands(device: Device) -> None:
    """Take commands until standard input ends; several may be under way."""
    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    under_way: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        task = asyncio.create_task(_answer(device, **json.loads(line)))
        under_way.add(task)
        task.add_done_callback(under_way.discard)


async def _answer(device: Device, command: int, do: str, **arguments: Any) -> None:
    try:
        _say("done", command=command, result=await device.do(do, **arguments))
    except KeypostError as error:
        _say("failed", command=command, reason=error.reason, sentence=str(error))


def _say(line: str, **facts: Any) -> None:
    os.write(sys.stdout.fileno(), json.dumps({"line": line, **facts}).encode() + b"\n")


async def main(folder: Path, name: str, retries: Retries = RETRIES) -> None:
    """Open the profile and do what is said until standard input ends."""
    journal = Journal(folder / "journal", sys.stdout.fileno())
    client = await _until_done(
        lambda: Client.open(
            folder / "profile",
            unlock=UNLOCK,
            bundle=folder / "bundle.json",
            on_event=lambda event: _hear(journal, event),
            retries=retries,
        )
    )
    async with client:
        _say("open", pid=os.getpid())
        await _commands(Device(folder, name, journal, client))


if __name__ == "__main__":
    patience = [Retries()] if PATIENT in sys.argv[3:] else []
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], *patience))
