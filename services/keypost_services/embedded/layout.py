"""Where everything of the embedded stack lies, and what each service is told: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.protocol.suites import STRONG, WEAK

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.protocol.suites import Suite

LOOPBACK = "127.0.0.1"
SERVICES = ("ca", "directory", "delivery")
ADMINISTRATOR = "operator"
"""The administrator of the stack."""

Ports = Mapping[str, int]
"""The ports of one process of a service: ``public`` and ``internal``."""


@dataclass(frozen=True)
class Shape:
    """What a stack keeps its data in, and in how many processes it serves.

    Attributes:
        name: What people call it.
        postgres: Whether the CA has a PostgreSQL; else it has a file of SQLite.
        cluster: Whether the mailboxes are in a Valkey Cluster of three masters with a replica each, and an answer waits
            for both; else they are in the one Valkey that caches and counts.
        replicas: How many processes each of CA and delivery has.
    """

    name: str
    postgres: bool = False
    cluster: bool = False
    replicas: int = 1

    @property
    def processes(self) -> tuple[str, ...]:
        """The names of the services' processes, those that are called before those that call them."""
        counts = {"ca": self.replicas, "directory": 1, "delivery": self.replicas}
        return tuple(name_of(service, number) for service in SERVICES for number in range(1, counts[service] + 1))


EMBEDDED = Shape("embedded")
SHAPES = {
    shape.name: shape
    for shape in (
        EMBEDDED,
        Shape("postgres", postgres=True, replicas=2),
        Shape("cluster", postgres=True, cluster=True, replicas=2),
    )
}


def name_of(service: str, number: int) -> str:
    """Return the name of a process of a service; they are counted from 1."""
    return service if number == 1 else f"{service}-{number}"


def service_of(name: str) -> str:
    """Return the service that a process is one of."""
    return name.partition("-")[0]


@dataclass(frozen=True)
class Layout:
    """Where a stack lies, and what it is like.

    Attributes:
        folder: Everything lies below it.
        realm: The realm.
        weak_suite: Whether the realm allows the source document's suite as well.
        shape: What its data are kept in.
    """

    folder: Path
    realm: str = "example.org"
    weak_suite: bool = False
    shape: Shape = EMBEDDED

    @property
    def certificates(self) -> Path:
        """The TLS certificates."""
        return self.folder / "tls"

    @property
    def administrator(self) -> Path:
        """Where the administrator's certificate and private key are, without ``.pem`` and ``.key``."""
        return self.certificates / "administrators" / ADMINISTRATOR

    @property
    def realm_folder(self) -> Path:
        """The root key, the record key and the realm's trust statement."""
        return self.folder / "realm"

    @property
    def database(self) -> str:
        """The URL of the CA's database, if it is a file."""
        return f"sqlite:///{(self.folder / 'ca.db').resolve().as_posix()}"

    @property
    def bundle(self) -> Path:
        """The file that clients start from."""
        return self.bundles[0]

    @property
    def bundles(self) -> tuple[Path, ...]:
        """A bundle for each replica of CA and delivery: who starts from it calls that one."""
        numbers = range(1, self.shape.replicas + 1)
        return tuple(self.folder / f"{name_of('bundle', number)}.json" for number in numbers)

    @property
    def ports_file(self) -> Path:
        """The ports of the last time."""
        return self.folder / "ports.json"

    @property
    def log_folder(self) -> Path:
        """The logs of all parts."""
        return self.folder / "logs"

    def log(self, name: str) -> Path:
        """Return the log of one part."""
        return self.log_folder / f"{name}.log"

    def ready_file(self, name: str) -> Path:
        """Return the file in which a process of a service says which ports it serves."""
        return self.folder / f"{name}.ready.json"

    @property
    def allowed_suites(self) -> tuple[Suite, ...]:
        """The suites that the realm allows."""
        return (STRONG, WEAK) if self.weak_suite else (STRONG,)


def settings_of(
    layout: Layout,
    name: str,
    ports: Mapping[str, Ports],
    redis_url: str,
    *,
    database: str | None = None,
    mailboxes: str | None = None,
) -> dict[str, str]:
    """Return the environment that configures a process of a service.

    Args:
        layout: The stack.
        name: The process.
        ports: The ports of all processes.
        redis_url: The Valkey that caches and counts.
        database: The URL of the CA's database; None: the file.
        mailboxes: The URL of the mailboxes; None: they are in the Valkey that caches and counts.
    """
    service = service_of(name)
    own = {
        "ca": {
            "DATABASE": database or layout.database,
            "REALM_FOLDER": str(layout.realm_folder),
            "SIGN_IN": "open",
        },
        "directory": {"CA": _internal(ports, "ca"), "CACHE_URL": redis_url, "BUNDLE": str(layout.bundle)},
        "delivery": {
            "DIRECTORY": _internal(ports, "directory"),
            "MAILBOXES_URL": mailboxes or redis_url,
            "DURABILITY": "replicated" if layout.shape.cluster else "fsync",
            "BUNDLE": str(layout.bundle),
        },
    }
    # One server for all: it may be writing mailboxes to the disk when it is asked to count.
    limits = {"LIMITS_URL": redis_url, "LIMITS_TIMEOUT_SECONDS": "2"}
    settings = _common_settings(layout, name, ports[name]) | limits | own[service]
    return {f"KEYPOST_{service.upper()}_{setting}": value for setting, value in settings.items()}


def _common_settings(layout: Layout, name: str, ports: Ports) -> dict[str, str]:
    certificates = layout.certificates / service_of(name)
    return {
        "REALM": layout.realm,
        "PUBLIC_LISTEN": f"{LOOPBACK}:{ports['public']}",
        "INTERNAL_LISTEN": f"{LOOPBACK}:{ports['internal']}",
        "TLS_CERTIFICATE": str(certificates / "public.pem"),
        "TLS_PRIVATE_KEY": str(certificates / "public.key"),
        "INTERNAL_TLS_CERTIFICATE": str(certificates / "internal.pem"),
        "INTERNAL_TLS_PRIVATE_KEY": str(certificates / "internal.key"),
        "INTERNAL_TLS_ROOT": str(layout.certificates / "service-root.pem"),
        "READY_FILE": str(layout.ready_file(name)),
        "DRAIN_SECONDS": "3",
    }


def _internal(ports: Mapping[str, Ports], service: str) -> str:
    """Return the gRPC name of all processes of a service."""
    addresses = [f"{LOOPBACK}:{own['internal']}" for name, own in ports.items() if service_of(name) == service]
    return addresses[0] if len(addresses) == 1 else f"ipv4:{','.join(addresses)}"
