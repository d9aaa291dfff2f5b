"""A channel from one service to another, as it is at one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost_services.runtime.channels import mutual_tls_channel

if TYPE_CHECKING:
    import grpc.aio

    from keypost_services.runtime.config import ServiceSettings


def internal_channel(target: str, settings: ServiceSettings, service: str) -> grpc.aio.Channel:
    """Return a channel to ``service`` at ``target`` by the files of the calling service's settings."""
    certificate, private_key, root = settings.require_internal_tls()
    return mutual_tls_channel(target, service, certificate.read_bytes(), private_key.read_bytes(), root.read_bytes())
