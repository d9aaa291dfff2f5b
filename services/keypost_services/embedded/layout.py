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
"""The ports of one service: ``public`` and ``internal``."""


@dataclass(frozen=True)
class Layout:
    """The shape of a stack.

    Attributes:
        folder: Everything lies below it.
        realm: The realm.
        weak_suite: Whether the realm allows the source document's suite as well.
    """

    folder: Path
    realm: str = "example.org"
    weak_suite: bool = False

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
        """The URL of the CA's database."""
        return f"sqlite:///{(self.folder / 'ca.db').resolve().as_posix()}"

    @property
    def bundle(self) -> Path:
        """The file that clients start from."""
        return self.folder / "bundle.json"

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

    def ready_file(self, service: str) -> Path:
        """Return the file in which a service says which ports it serves."""
        return self.folder / f"{service}.ready.json"

    @property
    def allowed_suites(self) -> tuple[Suite, ...]:
        """The suites that the realm allows."""
        return (STRONG, WEAK) if self.weak_suite else (STRONG,)


def settings_of(layout: Layout, service: str, ports: Mapping[str, Ports], redis_url: str) -> dict[str, str]:
    """Return the environment that configures a service.

    Args:
        layout: The shape of the stack.
        service: The service.
        ports: The ports of all services.
        redis_url: The embedded Valkey.
    """
    own = {
        "ca": {"DATABASE": layout.database, "REALM_FOLDER": str(layout.realm_folder), "SIGN_IN": "open"},
        "directory": {"CA": _internal(ports, "ca"), "CACHE_URL": redis_url, "BUNDLE": str(layout.bundle)},
        "delivery": {
            "DIRECTORY": _internal(ports, "directory"),
            "MAILBOXES_URL": redis_url,
            "BUNDLE": str(layout.bundle),
        },
    }
    # One server for all: it may be writing mailboxes to the disk when it is asked to count.
    limits = {"LIMITS_URL": redis_url, "LIMITS_TIMEOUT_SECONDS": "2"}
    settings = _common_settings(layout, service, ports[service]) | limits | own[service]
    return {f"KEYPOST_{service.upper()}_{name}": value for name, value in settings.items()}


def _common_settings(layout: Layout, service: str, ports: Ports) -> dict[str, str]:
    certificates = layout.certificates / service
    return {
        "REALM": layout.realm,
        "PUBLIC_LISTEN": f"{LOOPBACK}:{ports['public']}",
        "INTERNAL_LISTEN": f"{LOOPBACK}:{ports['internal']}",
        "TLS_CERTIFICATE": str(certificates / "public.pem"),
        "TLS_PRIVATE_KEY": str(certificates / "public.key"),
        "INTERNAL_TLS_CERTIFICATE": str(certificates / "internal.pem"),
        "INTERNAL_TLS_PRIVATE_KEY": str(certificates / "internal.key"),
        "INTERNAL_TLS_ROOT": str(layout.certificates / "service-root.pem"),
        "READY_FILE": str(layout.ready_file(service)),
        "DRAIN_SECONDS": "3",
    }


def _internal(ports: Mapping[str, Ports], service: str) -> str:
    return f"{LOOPBACK}:{ports[service]['internal']}"
