"""The health service that each service has: the standard one, whose names are any text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2

from support.bad_input.rules import OK, Rule, always, refused
from support.bad_input.surface import Exchange, made, unary, watching

if TYPE_CHECKING:
    import grpc.aio

CHECK, LIST, WATCH = NAMES = tuple("/grpc.health.v1.Health/" + name for name in ("Check", "List", "Watch"))
UNKNOWN = refused("nothing has this name", "NOT_FOUND/HEALTH_NAME_UNKNOWN", ok=True)


def exchanges_of(channel: grpc.aio.Channel) -> dict[str, Exchange]:
    """Return the exchanges of the health service, which answers for an unknown name that is watched, too."""
    request = health_pb2.HealthCheckRequest(service="keypost.ca.v1.KeyInfoService")
    return {
        CHECK: Exchange(unary(channel, CHECK), made(request), {"service": Rule(always, UNKNOWN)}),
        LIST: Exchange(unary(channel, LIST), made(health_pb2.HealthListRequest())),
        WATCH: Exchange(watching(channel, WATCH), made(request), {"service": Rule(always, OK)}),
    }
