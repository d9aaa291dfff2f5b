"""Calls that need a part which messages alone do not need: they show that it is back, and meet it while it is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from keypost_services.embedded.layout import service_of
from support.faults.devices import CommandFailedError

if TYPE_CHECKING:
    import random

    from support.faults.devices import DevicePart
    from support.faults.faults import Fault
    from support.faults.stack import Stack

MOST_SECONDS = 90.0
Call = Callable[[], Coroutine[Any, Any, Any]]


class Asking:
    """Has devices ask.

    Args:
        stack: Whose devices.
        drawn: Draws which of them.
    """

    def __init__(self, stack: Stack, drawn: random.Random) -> None:
        self._devices = stack.devices
        self._random = drawn

    def needs(self, fault: Fault) -> list[Call]:
        """Return calls that need the part at fault, and change something where that is what it is for."""
        if _is_of_ca(fault):
            return [partial(_do, self._random.choice(self._askers(fault)), "renew")]
        if _is_of_directory(fault):
            # Whoever gets messages by the new key has to ask for it.
            return [partial(_do, device, "renew") for device in self._devices.values() if device not in self._at(fault)]
        return []

    def questions(self, fault: Fault) -> list[Call]:
        """Return calls that are answered by the part at fault and change nothing."""
        questions = {
            # What goes over a stream is not counted one by one.
            "list": fault.target.endswith("valkey"),
            "look_up": _is_of_directory(fault),
            "invite": _is_of_ca(fault),
        }
        asked = [question for question, is_asked in questions.items() if is_asked]
        return [partial(_do, device, question) for question in asked for device in self._askers(fault)]

    async def ask(self, fault: Fault, wanted: Callable[[], bool]) -> None:
        """Ask again and again as long as that is wanted, where there is anything to ask."""
        questions = self.questions(fault)
        deadline = time.monotonic() + MOST_SECONDS
        while questions and wanted() and time.monotonic() < deadline:
            for question in questions:
                await question()

    def _askers(self, fault: Fault) -> list[DevicePart]:
        return self._at(fault) or list(self._devices.values())

    def _at(self, fault: Fault) -> list[DevicePart]:
        """Return the device whose way is at fault, if it is one's."""
        caller = fault.target.partition(">")[0]
        return [self._devices[caller]] if caller in self._devices else []


async def _do(device: DevicePart, what: str, **arguments: Any) -> None:
    """Have a device do something once it runs; if it is killed meanwhile, so be it."""
    await device.running.wait()
    pid = device.pid
    try:
        await device.do(what, **arguments)
    except CommandFailedError:
        if device.pid == pid:
            raise


def _is_of_ca(fault: Fault) -> bool:
    """Return whether what is at fault is needed when a key is renewed."""
    caller, _, to = fault.target.partition(">")
    return to == "ca" or service_of(caller) in ("ca", "postgres") or fault.target == "valkey"


def _is_of_directory(fault: Fault) -> bool:
    """Return whether what is at fault is needed when a user is looked up."""
    caller, _, to = fault.target.partition(">")
    return to == "directory" or (caller == "directory" and not _is_of_ca(fault))
