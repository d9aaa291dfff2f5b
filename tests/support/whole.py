"""The three services in this process on a folder that stays, with a clock that a test moves.

What they keep lies in the folder: ``realm``, ``ca.db``, ``valkey``, ``people``. It can be copied while nothing runs,
and opened again by another version; ports and TLS certificates are new each time. Nothing here is of one version alone:
the script that makes the stored data of ``tests/upgrade`` runs it with an earlier one.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keypost.client import Client
from keypost.clock import DAY
from keypost.keystore.unlock import Argon2Cost, Passphrase
from keypost.protocol.realm_trust import Constants
from keypost.transport.retries import Backoff, Retries
from keypost_services.ca.bundle import make_bundle
from keypost_services.ca.compose import compose as compose_ca
from keypost_services.ca.settings import CaSettings
from keypost_services.ca.sign_in.port import Kind
from keypost_services.ca.trust.realm_files import RealmFolder, create_realm, load_trust
from keypost_services.delivery.compose import compose as compose_delivery
from keypost_services.delivery.settings import DeliverySettings
from keypost_services.directory.compose import compose as compose_directory
from keypost_services.directory.settings import DirectorySettings
from keypost_services.embedded.certificates import issue
from keypost_services.runtime.serving import running
from support.valkey import running_valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from keypost_services.runtime.serving import RunningService
    from support.clock import ManualClock
    from support.valkey import ValkeyServer

REALM = "example.org"
SERVICES = ("ca", "directory", "delivery")
CHEAP = Passphrase("correct horse", Argon2Cost(memory=64, iterations=1, lanes=1))
QUICK = Retries(attempts=3, backoff=Backoff(first=0.01, longest=0.1))
_COMPOSE: dict[str, Any] = {"ca": compose_ca, "directory": compose_directory, "delivery": compose_delivery}


@dataclass
class Whole:
    """The services, and clients of them.

    Attributes:
        folder: Where everything lies.
        clock: The time of services and clients.
        valkey: The server of mailboxes, cache and limits.
    """

    folder: Path
    clock: ManualClock
    valkey: ValkeyServer
    _exits: contextlib.AsyncExitStack
    _services: dict[str, tuple[RunningService[Any], contextlib.AsyncExitStack]] = field(default_factory=dict)

    @property
    def bundle(self) -> Path:
        """The file from which clients start."""
        return self.folder / "bundle.json"

    def profile(self, name: str) -> Path:
        """Return where a client's profile lies."""
        return self.folder / "people" / name

    async def start(self, name: str) -> None:
        """Start a service, on the ports that it had."""
        ports = {"public_listen": "127.0.0.1:0", "internal_listen": "127.0.0.1:0"}
        if (earlier := self._services.get(name)) is not None:
            ports["public_listen"] = f"127.0.0.1:{earlier[0].public_port}"
            ports["internal_listen"] = f"127.0.0.1:{earlier[0].internal_port}"
        exits = await self._exits.enter_async_context(contextlib.AsyncExitStack())
        serving = running(name, self._settings(name, **ports), _COMPOSE[name], clock=self.clock)
        self._services[name] = await exits.enter_async_context(serving), exits

    async def stop(self, name: str) -> None:
        """Stop a service in good order."""
        await self._services[name][1].aclose()

    def write_bundle(self, **instead: str) -> Path:
        """Write the bundle, with other endpoints where ``instead`` names them, and return it."""
        endpoints = {name: f"127.0.0.1:{service.public_port}" for name, (service, _) in self._services.items()}
        trust = load_trust(RealmFolder(self.folder / "realm"), self.clock())
        roots = self.folder / "tls" / "public-root.pem"
        self.bundle.write_text(make_bundle(trust, {**dict.fromkeys(SERVICES, ""), **endpoints, **instead}, roots))
        return self.bundle

    async def open(self, name: str, **options: Any) -> Client:
        """Open the profile of a name; it is closed at the end."""
        usual: dict[str, Any] = {"unlock": CHEAP, "bundle": self.bundle, "clock": self.clock, "retries": QUICK}
        opened = await Client.open(self.profile(name), **{**usual, **options})
        return await self._exits.enter_async_context(opened)

    def port(self, name: str) -> int:
        """Return the public port of a service."""
        return self._services[name][0].public_port

    def _settings(self, name: str, **ports: str) -> Any:
        own, tls = self.folder / "tls" / name, self.folder / "tls"
        common: dict[str, Any] = {
            "realm": REALM,
            "tls_certificate": own / "public.pem",
            "tls_private_key": own / "public.key",
            "internal_tls_certificate": own / "internal.pem",
            "internal_tls_private_key": own / "internal.key",
            "internal_tls_root": tls / "service-root.pem",
            "log_level": "error",
            "drain_seconds": 1,
            "limits_url": self.valkey.url,
            "limits_timeout_seconds": 5,
            **ports,
        }
        if name == "ca":
            database = f"sqlite:///{self.folder / 'ca.db'}"
            return CaSettings(**common, database=database, realm_folder=self.folder / "realm", sign_in=(Kind.OPEN,))
        if name == "directory":
            ca = self._services["ca"][0].internal_port
            return DirectorySettings(
                **common, ca=f"127.0.0.1:{ca}", cache_url=self.valkey.url, bundle=self.bundle, cache_timeout_seconds=5
            )
        directory = self._services["directory"][0].internal_port
        return DeliverySettings(
            **common, directory=f"127.0.0.1:{directory}", mailboxes_url=self.valkey.url, bundle=self.bundle
        )


@contextlib.asynccontextmanager
async def open_whole(folder: Path, clock: ManualClock) -> AsyncIterator[Whole]:
    """Start everything on a folder; what it needs is made the first time. At the end everything is stopped."""
    files = RealmFolder(folder / "realm")
    issue(folder / "tls", REALM, SERVICES)
    if not files.path.exists():
        create_realm(files, REALM, Constants(), 400 * DAY, clock())
    durable = {"appendonly": "yes", "appendfsync": "always", "maxmemory_policy": "noeviction"}
    async with contextlib.AsyncExitStack() as exits:
        valkey = exits.enter_context(running_valkey(folder / "valkey", **durable))
        whole = Whole(folder, clock, valkey, exits)
        whole.write_bundle()
        for name in SERVICES:
            await whole.start(name)
        whole.write_bundle()
        yield whole
