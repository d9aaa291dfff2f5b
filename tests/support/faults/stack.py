"""All parts of a run and all ways between them: real processes, real TLS, every way through a proxy of the run's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
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
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from support.faults.parts import Part

REPLICAS = ("delivery-1", "delivery-2")
USUAL: Mapping[str, Sequence[str]] = {"ca": ("ca",), "directory": ("directory",), "delivery": REPLICAS}
"""The processes of each service, those that are called first."""
USERS = ("alice", "bob")
DEVICES_EACH = 2
LIMITS = "Send=1000000/1m,Receive=6000/1m,look_ups=1000000/1m,Renew=6000/1m,BeginRenewal=6000/1m,BeginApproval=6000/1m"
"""A run breaks more streams, and asks more often, than a well-behaved device does in a minute."""

CodeOf = Callable[[str], "Path | None"]


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

    def __init__(
        self, stack: Stack, exits: AsyncExitStack, replicas: Mapping[str, Sequence[str]], code_of: CodeOf
    ) -> None:
        self.stack = stack
        self._exits = exits
        self._replicas = replicas
        self._code_of = code_of
        self._ports: Iterator[int] = kept_ports()
        self._layout = Layout(stack.folder)
        self._service_ports = {
            name: {"public": next(self._ports), "internal": next(self._ports)}
            for service in SERVICES
            for name in replicas[service]
        }

    async def build(self) -> Stack:
        layout, ports = self._layout, self._service_ports
        layout.log_folder.mkdir(parents=True)
        certificates.issue(layout.certificates, layout.realm, SERVICES)
        prepare_realm(layout, {service: ports[self._replicas[service][0]] for service in SERVICES}, system_clock)
        valkey_port = next(self._ports)
        self.stack.servers["valkey"] = valkey_part("valkey", layout.folder / "valkey", valkey_port, self.stack.guard)
        for service, calls in (("ca", []), ("directory", ["ca"]), ("delivery", ["directory"])):
            for name in self._replicas[service]:
                await self._service(name, service, valkey_port, calls)
        for user in USERS:
            for number in range(1, DEVICES_EACH + 1):
                await self._device(f"{user}-{number}", user, first=number % len(REPLICAS))
        return self.stack

    async def _link(self, caller: str, service: str, backends: Sequence[Backend]) -> Link:
        link = Link(f"{caller}>{service}", backends, on_change=self.stack.bell.ring)
        self.stack.links[link.name] = link
        return await self._exits.enter_async_context(link)

    async def _service(self, name: str, service: str, valkey_port: int, calls: Sequence[str]) -> None:
        """Add a service that has ways to Valkey and to the services that it calls."""
        ports = {service: self._service_ports[name]}
        for called in calls:
            backends = [Backend(each, self._service_ports[each]["internal"]) for each in self._replicas[called]]
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
        part.code = self._code_of(name)
        self.stack.servers[name] = part

    async def _device(self, name: str, username: str, first: int) -> None:
        """Add a device; one replica of each service is its first choice; the others are there if that one is not."""
        ports = self._service_ports
        endpoints = {}
        for service, names in self._replicas.items():
            order = [*names[first:], *names[:first]]
            ways = [Backend(backend, ports[backend]["public"]) for backend in order]
            endpoints[service] = (await self._link(name, service, ways)).target
        device = DevicePart(name, username, self.stack.folder / name, self.stack.guard, self.stack.bell)
        device.code = self._code_of(name)
        bundle = json.loads(self._layout.bundle.read_text())
        (device.folder / "bundle.json").write_text(json.dumps({**bundle, "endpoints": endpoints}))
        self.stack.devices[name] = device


@asynccontextmanager
async def running_stack(
    folder: Path,
    *,
    replicas: Mapping[str, Sequence[str]] = USUAL,
    code_of: CodeOf = lambda _name: None,
) -> AsyncIterator[Stack]:
    """Start everything, enrol everybody, and end all of it afterwards.

    Args:
        folder: Where everything lies; empty.
        replicas: The processes of each service.
        code_of: Returns where the code of another version lies that a part begins with; None: it is this one.
    """
    guard = Guard()
    async with AsyncExitStack() as exits:
        guard.start()
        exits.callback(guard.stop)
        stack = await _Builder(Stack(folder, Bell(), guard), exits, replicas, code_of).build()
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
