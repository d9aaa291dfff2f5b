"""All parts of a run and all ways between them: real processes, real TLS, every way through a proxy of the run's."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keypost.clock import system_clock
from keypost_services.embedded import certificates
from keypost_services.embedded.guard import Guard
from keypost_services.embedded.layout import SERVICES, Layout, settings_of
from keypost_services.embedded.realm import prepare_realm
from support.faults.devices import DevicePart
from support.faults.parts import Server, service_part, valkey_part
from support.faults.ports import kept_ports
from support.faults.proxy import Backend, Link
from support.faults.watching import Bell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from support.faults.parts import Part

REPLICAS = ("delivery-1", "delivery-2")
USERS = ("alice", "bob")
DEVICES_EACH = 2
LIMITS = "Send=1000000/1m,Receive=6000/1m,look_ups=1000000/1m,Renew=6000/1m,BeginRenewal=6000/1m,BeginApproval=6000/1m"
"""A run breaks more streams, and asks more often, than a well-behaved device does in a minute."""


@dataclass
class Stack:
    """What a run consists of.

    Attributes:
        servers: The parts that are no devices, by name, in the order in which they are started.
        devices: The devices, by name.
        links: The ways, by name: ``caller>service``.
        bell: Rings whenever something happens.
    """

    folder: Path
    bell: Bell
    guard: Guard
    servers: dict[str, Server] = field(default_factory=dict)
    devices: dict[str, DevicePart] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)

    @property
    def parts(self) -> Mapping[str, Part]:
        """Everything that has a process."""
        return {**self.servers, **self.devices}

    def links_to(self, service: str, callers: Sequence[str] | None = None) -> list[Link]:
        """Return the ways to a service, of these callers or of all."""
        pairs = ((name.split(">"), link) for name, link in self.links.items())
        return [link for (caller, to), link in pairs if to == service and (callers is None or caller in callers)]

    def died(self) -> list[str]:
        """Return the obituaries of parts that ended without having been told to."""
        return [part.obituary() for part in self.parts.values() if part.died]


class _Builder:
    """Puts a stack together; nothing is started yet but the links."""

    def __init__(self, folder: Path, exits: AsyncExitStack, guard: Guard) -> None:
        self.stack = Stack(folder, Bell(), guard)
        self._exits = exits
        self._ports: Iterator[int] = kept_ports()
        self._layout = Layout(folder)
        self._service_ports = {
            name: {"public": next(self._ports), "internal": next(self._ports)} for name in (*SERVICES[:2], *REPLICAS)
        }

    async def build(self) -> Stack:
        layout, ports = self._layout, self._service_ports
        layout.log_folder.mkdir(parents=True)
        certificates.issue(layout.certificates, layout.realm, SERVICES)
        prepare_realm(
            layout, {"ca": ports["ca"], "directory": ports["directory"], "delivery": ports["delivery-1"]}, system_clock
        )
        valkey_port = next(self._ports)
        self.stack.servers["valkey"] = valkey_part("valkey", layout.folder / "valkey", valkey_port, self.stack.guard)
        await self._service("ca", "ca", valkey_port, {})
        await self._service("directory", "directory", valkey_port, {"ca": "ca"})
        for replica in REPLICAS:
            await self._service(replica, "delivery", valkey_port, {"directory": "directory"})
        for user in USERS:
            for number in range(1, DEVICES_EACH + 1):
                await self._device(f"{user}-{number}", user, first=number % len(REPLICAS))
        return self.stack

    async def _link(self, caller: str, service: str, backends: Sequence[Backend]) -> Link:
        link = Link(f"{caller}>{service}", backends, on_change=self.stack.bell.ring)
        self.stack.links[link.name] = link
        return await self._exits.enter_async_context(link)

    async def _service(self, name: str, service: str, valkey_port: int, calls: Mapping[str, str]) -> None:
        """Add a service that has ways to Valkey and to the services that it calls."""
        ports = dict(self._service_ports, **{service: self._service_ports[name]})
        for called in calls.values():
            backends = [Backend(called, self._service_ports[called]["internal"])]
            link = await self._link(name, called, backends)
            ports[called] = {"public": 0, "internal": link.port}
        valkey = await self._link(name, "valkey", [Backend("valkey", valkey_port)])
        settings = settings_of(self._layout, service, ports, f"redis://{valkey.target}/0")
        prefix = f"KEYPOST_{service.upper()}_"
        own = {
            "READY_FILE": str(self._layout.ready_file(name)),
            "LIMITS": LIMITS,
            "LIMITS_TIMEOUT_SECONDS": "0.5",
        }
        environment = settings | {prefix + setting: value for setting, value in own.items()}
        part = service_part(name, service, self._layout.log(name), environment, self.stack.guard)
        self.stack.servers[name] = part

    async def _device(self, name: str, username: str, first: int) -> None:
        """Add a device; one delivery replica is its first choice, and the others are there if that one is not."""
        ports = self._service_ports
        order = [*REPLICAS[first:], *REPLICAS[:first]]
        endpoints = {}
        for service, backends in {"ca": ["ca"], "directory": ["directory"], "delivery": order}.items():
            ways = [Backend(backend, ports[backend]["public"]) for backend in backends]
            endpoints[service] = (await self._link(name, service, ways)).target
        device = DevicePart(name, username, self.stack.folder / name, self.stack.guard, self.stack.bell)
        bundle = json.loads(self._layout.bundle.read_text())
        (device.folder / "bundle.json").write_text(json.dumps({**bundle, "endpoints": endpoints}))
        self.stack.devices[name] = device


@asynccontextmanager
async def running_stack(folder: Path) -> AsyncIterator[Stack]:
    """Start everything, enrol everybody, and end all of it afterwards.

    Args:
        folder: Where everything lies; empty.
    """
    guard = Guard()
    async with AsyncExitStack() as exits:
        guard.start()
        exits.callback(guard.stop)
        stack = await _Builder(folder, exits, guard).build()
        exits.push_async_callback(_kill_all, stack)
        valkey, ca, *others = stack.servers.values()
        await asyncio.gather(valkey.start(), ca.start())
        await asyncio.gather(*(server.start() for server in others))
        await _enroll_all(stack)
        yield stack


async def _enroll_all(stack: Stack) -> None:
    by_user: dict[str, list[DevicePart]] = {}
    await asyncio.gather(*(device.start() for device in stack.devices.values()))
    for device in stack.devices.values():
        by_user.setdefault(device.username, []).append(device)
    await asyncio.gather(*(_enroll(username, *devices) for username, devices in by_user.items()))


async def _enroll(username: str, first: DevicePart, *others: DevicePart) -> None:
    await first.do("enroll", username=username)
    for other in others:
        request = await other.do("join", invitation=await first.do("invite"))
        await first.do("approve", request=request)
        await other.do("joined")


async def _kill_all(stack: Stack) -> None:
    """End what still runs; whoever was to end in good order has been told to before."""
    for part in reversed(list(stack.parts.values())):
        await part.kill()
