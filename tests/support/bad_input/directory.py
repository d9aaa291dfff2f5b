"""The directory's methods, with what may stand in their requests."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import grpc

from keypost.directory.v1 import directory_service_pb2 as pb
from keypost_services.directory import servicer
from support.bad_input.rules import OK, Rule, invalid, number, refused, size, username
from support.bad_input.surface import Exchange, Surface, made, unary, watching
from support.clock import ManualClock
from support.directory import DirectoryUnderTest, running_ca, running_directory, service_settings
from support.internal_channel import internal_channel
from support.limits import UNLIMITED
from support.realm import SimulatedRealm
from support.valkey import running_valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from keypost.protocol.key_requests import DeviceKeyPair

LOOK_UPS, EVENTS = "/keypost.directory.v1.DirectoryService/", "/keypost.directory.v1.KeyEventService/"
NAMES = (*(LOOK_UPS + name for name in ("GetRealmTrust", "GetKeyInfo", "BatchGetKeyInfo")), EVENTS + "WatchKeyEvents")
NOT_FOUND = refused("there is no such user", "NOT_FOUND/USER_NOT_FOUND", ok=True)
KEY_INFO_RULES = {
    "username": Rule(username, NOT_FOUND),
    "history_from_fingerprint": Rule(size(0, 32)),
    "min_revision": Rule(number(0)),
}
USERNAMES_RULES = {
    "usernames": Rule(lambda value: 1 <= len(value) <= 100 and len(set(value)) == len(value)),
    "usernames[]": Rule(username, OK | refused("it stands there already", invalid("usernames"))),
}
AHEAD = refused("this directory has not come that far", "OUT_OF_RANGE/SEQUENCE_AHEAD", ok=True)


def exchanges_of(
    directory: DirectoryUnderTest, pair: DeviceKeyPair, devices: grpc.aio.Channel, delivery: grpc.aio.Channel
) -> dict[str, Exchange]:
    """Return the exchanges of both ports."""
    trust, one, batch, watch = NAMES
    key_info = pb.GetKeyInfoRequest(username="alice", history_from_fingerprint=pair.fingerprint, min_revision=1)
    usernames = pb.BatchGetKeyInfoRequest(usernames=["alice", "nobody", "x"])
    start = pb.WatchKeyEventsRequest(after_sequence=0)

    def token() -> tuple[tuple[str, str], ...]:
        return directory.token_metadata(pair)

    return {
        trust: Exchange(unary(devices, trust), made(pb.GetRealmTrustRequest()), {"after_sequence": Rule(number(0))}),
        one: Exchange(unary(devices, one, token), made(key_info), KEY_INFO_RULES),
        batch: Exchange(unary(devices, batch, token), made(usernames), USERNAMES_RULES),
        watch: Exchange(watching(delivery, watch), made(start), {"after_sequence": Rule(number(0), AHEAD)}),
    }


@contextlib.asynccontextmanager
async def open_surface(folder: Path) -> AsyncIterator[Surface]:
    """Serve a directory in front of a CA and return its surface."""
    clock = ManualClock()
    realm = SimulatedRealm(clock=clock)
    pair, patience = realm.enroll("alice"), servicer.CATCH_UP_SECONDS
    servicer.CATCH_UP_SECONDS = 0.001  # nobody catches up here
    with running_valkey(folder / "valkey", appendonly="yes") as valkey:
        async with (
            running_ca(folder, realm) as host,
            running_directory(host, clock, valkey.url, **UNLIMITED) as directory,
            grpc.aio.secure_channel(
                f"127.0.0.1:{directory.service.public_port}",
                grpc.ssl_channel_credentials((folder / "public-root.pem").read_bytes()),
            ) as devices,
            internal_channel(
                f"127.0.0.1:{directory.service.internal_port}", service_settings(folder, "delivery"), "directory"
            ) as delivery,
        ):
            yield Surface(exchanges_of(directory, pair, devices, delivery), directory.output)
    servicer.CATCH_UP_SECONDS = patience
