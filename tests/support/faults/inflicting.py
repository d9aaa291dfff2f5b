"""Doing to a stack what a fault says, and undoing it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from support.faults.faults import ALL, PROCESS_KINDS, Kind
from support.faults.parts import freeze, thaw

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from support.faults.asking import Asking
    from support.faults.devices import DevicePart
    from support.faults.faults import Fault
    from support.faults.proxy import Link
    from support.faults.stack import Stack

CUT_SECONDS = 90.0

BEGIN: Mapping[Kind, Callable[[Link, Fault], None]] = {
    Kind.CUT: lambda link, _fault: link.cut(),
    Kind.CUT_AMID: lambda link, fault: link.cut_after(fault.size),
    Kind.REFUSE: lambda link, _fault: link.refuse(),
    Kind.STALL: lambda link, _fault: link.stall(),
    Kind.MUTE: lambda link, _fault: link.mute(),
}
"""How what happens to a way begins."""


class Inflicting:
    """Inflicts faults.

    Args:
        stack: On what.
        asking: Makes bytes pass where they do not by themselves.
    """

    def __init__(self, stack: Stack, asking: Asking) -> None:
        self._stack = stack
        self._asking = asking

    async def inflict(self, fault: Fault) -> None:
        """Do what the fault says; return when it is undone."""
        if fault.kind is Kind.KILL:
            await self._kill(fault.target)
        elif fault.kind is Kind.LOSE:
            await self._lose(fault.target)
        elif fault.kind in PROCESS_KINDS:
            await self._freeze(fault)
        else:
            await self._break(fault)

    def links(self, fault: Fault) -> list[Link]:
        """Return the ways that a fault of a way is about."""
        caller, service = fault.target.split(">")
        if caller != ALL:
            return [self._stack.links[fault.target]]
        return self._stack.links_to(service, list(self._stack.devices))

    async def _kill(self, name: str) -> None:
        part = self._stack.parts[name]
        await part.kill()
        await part.start()
        for link in self._stack.links.values():
            link.prefer_again(name)

    async def _lose(self, name: str) -> None:
        """Kill a node of the cluster, and start it again as a replica of whoever has taken over."""
        cluster, node = self._stack.cluster, self._stack.nodes[name]
        if cluster is None:
            raise AssertionError
        part = self._stack.parts[name]
        was_master = await asyncio.to_thread(lambda: node in cluster.masters)
        await part.kill()
        if was_master:
            await asyncio.to_thread(cluster.wait_failed_over, node)
        await part.start()

    async def _freeze(self, fault: Fault) -> None:
        part = self._stack.parts[fault.target]
        replaced = self._stack.links.values() if fault.kind is Kind.REPLACE else ()
        freeze(part)
        try:
            for link in replaced:
                link.avoid(fault.target)
            await _last(fault.seconds)
        finally:
            thaw(part)
        for link in replaced:
            link.prefer_again(fault.target)

    async def _break(self, fault: Fault) -> None:
        links = self.links(fault)
        quiet = self._hushed(fault)
        for device in quiet:
            await device.do("hush")
        for link in links:
            BEGIN[fault.kind](link, fault)
        if fault.kind is Kind.CUT_AMID:
            await self._until_cut(fault, links)
        elif fault.seconds:
            await _last(fault.seconds)
        for link in links:
            if fault.kind is Kind.MUTE:
                link.cut()
            link.mend()
        for device in quiet:
            await device.do("speak")

    def _hushed(self, fault: Fault) -> list[DevicePart]:
        """Return who is to receive alone meanwhile: who sends is told of new keys by delivery, and need not ask."""
        caller, service = fault.target.split(">")
        return [self._stack.devices[caller]] if service == "directory" and caller in self._stack.devices else []

    async def _until_cut(self, fault: Fault, links: Sequence[Link]) -> None:
        """Wait until so many bytes have passed on one of the ways."""

        def missing() -> list[str]:
            return [] if any(not link.will_be_cut for link in links) else [f"{fault.size} bytes on {fault.target}"]

        asking = asyncio.create_task(self._asking.ask(fault, lambda: bool(missing())))
        try:
            await self._stack.bell.until(str(fault), missing, CUT_SECONDS)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


async def _last(seconds: float) -> None:
    """Let a fault last: this is the fault itself, not a wait for something to happen."""
    await asyncio.sleep(seconds)
