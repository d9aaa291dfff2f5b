"""All parts of a run and all ways between them: real processes, real TLS, every way through a proxy of the run's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg

from keypost.clock import system_clock
from keypost_services.embedded import certificates
from keypost_services.embedded.guard import Guard
from keypost_services.embedded.layout import EMBEDDED, SERVICES, Layout, name_of, service_of, settings_of
from keypost_services.embedded.postgres import Postgres
from keypost_services.embedded.realm import prepare_realm
from keypost_services.embedded.servers import DATABASE
from support.faults.devices import DevicePart
from support.faults.faults import Places
from support.faults.parts import Server, node_part, postgres_part, service_part, valkey_part
from support.faults.ports import kept_ports
from support.faults.proxy import Backend, Link
from support.faults.watching import Bell
from support.faults.worker import PATIENT
from support.valkey_cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from keypost_services.embedded.layout import Ports, Shape
    from keypost_services.embedded.valkey_cluster import ClusterNode
    from support.faults.parts import Part

USERS = ("alice", "bob")
DEVICES_EACH = 2
CALLS = {"directory": "ca", "delivery": "directory"}
"""Which service calls which."""
_UNLIMITED = ("Send", "look_ups")
_OFTEN = ("Receive", "ListMailboxes", "BeginRenewal", "Renew", "BeginApproval")
LIMITS = ",".join([*(f"{name}=none" for name in _UNLIMITED), *(f"{name}=6000/1m" for name in _OFTEN)])
"""A run breaks more streams, and asks more often, than a well-behaved device does in a minute."""

CodeOf = Callable[[str], "Path | None"]


@dataclass
class Stack:
    """What a run consists of.

    Attributes:
        servers: The parts that are no devices, by name, in the order in which they are started.
        nodes: Those of them that are nodes of the Valkey Cluster.
        devices: The devices, by name.
        links: The ways, by name: ``caller>service``.
        cluster: The Valkey Cluster, if there is one.
        bell: Rings whenever something happens.
    """

    folder: Path
    bell: Bell
    guard: Guard
    servers: dict[str, Server] = field(default_factory=dict)
    nodes: dict[str, ClusterNode] = field(default_factory=dict)
    devices: dict[str, DevicePart] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    cluster: Cluster | None = None

    @property
    def parts(self) -> Mapping[str, Part]:
        """Everything that has a process."""
        return {**self.servers, **self.devices}

    @property
    def places(self) -> Places:
        """Where faults can happen."""
        servers = [name for name in self.servers if name not in self.nodes]
        services = [service_of(name) for name in servers]
        replicas = [name for name in servers if services.count(service_of(name)) > 1]
        return Places(servers, replicas, list(self.nodes), list(self.devices), list(self.links))

    def links_to(self, service: str, callers: Sequence[str] | None = None) -> list[Link]:
        """Return the ways to a service, of these callers or of all."""
        pairs = ((name.split(">"), link) for name, link in self.links.items())
        return [link for (caller, to), link in pairs if to == service and (callers is None or caller in callers)]

    def died(self) -> list[str]:
        """Return the obituaries of parts that ended without having been told to."""
        return [part.obituary() for part in self.parts.values() if part.died]


class _Builder:
    """Puts a stack together and starts its servers, all but the devices."""

    def __init__(
        self,
        stack: Stack,
        shape: Shape,
        exits: AsyncExitStack,
        processes: Sequence[str] | None,
        code_of: CodeOf,
        settings: Mapping[str, str],
    ) -> None:
        self.stack = stack
        self._settings = settings
        self._exits = exits
        self._code_of = code_of
        self._ports: Iterator[int] = kept_ports()
        self._layout = Layout(stack.folder, shape=shape)
        # Two processes of delivery in every shape: one of them stands in for the other.
        if processes is None:
            processes = shape.processes if shape.replicas > 1 else (*shape.processes, name_of("delivery", 2))
        self._service_ports = {name: {"public": next(self._ports), "internal": next(self._ports)} for name in processes}
        self._valkey_port = next(self._ports)
        self._database: str | None = None
        self._mailboxes: str | None = None

    async def build(self) -> Stack:
        layout, stack = self._layout, self.stack
        layout.log_folder.mkdir(parents=True)
        certificates.issue(layout.certificates, layout.realm, SERVICES)
        prepare_realm(layout, self._service_ports, system_clock)
        valkey = valkey_part("valkey", layout.folder / "valkey", self._valkey_port, stack.guard)
        stack.servers["valkey"] = valkey
        await asyncio.gather(valkey.start(), self._start_postgres(), self._start_cluster())
        for name in self._service_ports:
            await self._service(name)
        for user in USERS:
            for number in range(1, DEVICES_EACH + 1):
                await self._device(f"{user}-{number}", user, first=number % 2)
        cas = [stack.servers[name] for name in self._service_ports if service_of(name) == "ca"]
        await asyncio.gather(*(ca.start() for ca in cas))
        others = [stack.servers[name] for name in self._service_ports if service_of(name) != "ca"]
        await asyncio.gather(*(server.start() for server in others))
        return stack

    async def _start_postgres(self) -> None:
        if self._layout.shape.postgres:
            port = next(self._ports)
            postgres = Postgres(self._layout.folder / "postgres", port=port, sync=False)
            part = self.stack.servers["postgres"] = postgres_part("postgres", postgres, self.stack.guard)
            self._exits.callback(postgres.remove)
            await part.start()
            with psycopg.connect(postgres.url, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {DATABASE}")
            self._database = postgres.url_of(DATABASE)

    async def _start_cluster(self) -> None:
        if self._layout.shape.cluster:
            cluster = self.stack.cluster = Cluster(self._layout.folder / "cluster")
            for number, node in enumerate(cluster.nodes, start=1):
                self.stack.nodes[f"node-{number}"] = node
                self.stack.servers[f"node-{number}"] = node_part(f"node-{number}", node, self.stack.guard)
            await asyncio.gather(*(self.stack.servers[name].start() for name in self.stack.nodes))
            await asyncio.to_thread(cluster.wait)
            self._mailboxes = cluster.url

    def _backends(self, service: str, kind: str, first: int = 0) -> list[Backend]:
        """Return the processes of a service, beginning with one of them."""
        names = [name for name in self._service_ports if service_of(name) == service]
        return [Backend(name, self._service_ports[name][kind]) for name in (*names[first:], *names[:first])]

    async def _link(self, caller: str, service: str, backends: Sequence[Backend]) -> Link:
        link = Link(f"{caller}>{service}", backends, on_change=self.stack.bell.ring)
        self.stack.links[link.name] = link
        return await self._exits.enter_async_context(link)

    async def _service(self, name: str) -> None:
        """Add a process of a service, with ways to the servers and to the services that it calls."""
        service = service_of(name)
        ports: dict[str, Ports] = {name: self._service_ports[name]}
        if (called := CALLS.get(service)) is not None:
            link = await self._link(name, called, self._backends(called, "internal"))
            ports[called] = {"public": 0, "internal": link.port}
        valkey = await self._link(name, "valkey", [Backend("valkey", self._valkey_port)])
        database = await self._database_of(name) if service == "ca" else None
        settings = settings_of(
            self._layout, name, ports, f"redis://{valkey.target}/0", database=database, mailboxes=self._mailboxes
        )
        prefix = f"KEYPOST_{service.upper()}_"
        environment = {
            **settings,
            f"{prefix}LIMITS": LIMITS,
            f"{prefix}LIMITS_TIMEOUT_SECONDS": "0.5",
            f"{prefix}HEALTH_LISTEN": "127.0.0.1:0",
            f"{prefix}METRICS_LISTEN": "127.0.0.1:0",
            **{name: value for name, value in self._settings.items() if name.startswith(prefix)},
        }
        part = service_part(name, self._layout.log(name), environment, self.stack.guard)
        part.code = self._code_of(name)
        self.stack.servers[name] = part

    async def _database_of(self, name: str) -> str | None:
        """Return the URL of the CA's database by a way of this process's own."""
        if self._database is None:
            return None
        url = urlsplit(self._database)
        link = await self._link(name, "postgres", [Backend("postgres", int(url.port or 0))])
        return url._replace(netloc=f"{url.netloc.rpartition(':')[0]}:{link.port}").geturl()

    async def _device(self, name: str, username: str, first: int) -> None:
        """Add a device; one replica is its first choice, and the others are there if that one is not."""
        links = {to: await self._link(name, to, self._backends(to, "public", first)) for to in SERVICES}
        endpoints = {service: link.target for service, link in links.items()}
        device = DevicePart(name, username, self.stack.folder / name, self.stack.guard, self.stack.bell)
        device.code = self._code_of(name)
        bundle = json.loads(self._layout.bundle.read_text())
        (device.folder / "bundle.json").write_text(json.dumps({**bundle, "endpoints": endpoints}))
        self.stack.devices[name] = device


@asynccontextmanager
async def running_stack(
    folder: Path,
    shape: Shape = EMBEDDED,
    *,
    processes: Sequence[str] | None = None,
    code_of: CodeOf = lambda _name: None,
    patient: bool = False,
    enrolled: bool = True,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Stack]:
    """Start everything, enrol everybody, and end all of it afterwards.

    Args:
        folder: Where everything lies; empty.
        shape: What the data are kept in, and how many CAs there are.
        processes: The processes of the services, those that are called first; None: as the shape has them.
        code_of: Returns where the code of another version lies that a part begins with; None: it is this one.
        patient: Devices retry as the SDK does by itself, not sooner: no fault need be longer than their deadlines.
        enrolled: Everybody is enrolled; else no device runs.
        settings: Settings of services that are not as usual, by variable.
    """
    guard = Guard()
    async with AsyncExitStack() as exits:
        guard.start()
        exits.callback(guard.stop)
        builder = _Builder(Stack(folder, Bell(), guard), shape, exits, processes, code_of, settings or {})
        exits.push_async_callback(_kill_all, builder.stack)
        stack = await builder.build()
        for device in stack.devices.values():
            device.arguments = (PATIENT,) if patient else ()
        if enrolled:
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
