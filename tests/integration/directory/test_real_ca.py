"""The directory in front of the real CA: what the one says, the other understands."""

from __future__ import annotations

import asyncio
import io
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from keypost.directory.v1 import directory_service_pb2 as pb
from keypost.directory.v1.directory_service_pb2_grpc import DirectoryServiceStub, KeyEventServiceStub
from keypost.keys.v1 import key_info_pb2, realm_trust_pb2
from keypost_services.directory.compose import compose
from keypost_services.directory.settings import DirectorySettings
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.serving import running
from support.ca_service import CaUnderTest, open_ca
from support.directory import service_settings, tls_settings
from support.internal_channel import internal_channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.valkey import ValkeyServer


@asynccontextmanager
async def directory_of(ca: CaUnderTest, cache: str) -> AsyncIterator[tuple[Any, Any]]:
    """Yield stubs of both services of a directory, as delivery calls them."""
    root_keys = [realm_trust_pb2.RootKey(public_key_der=key) for key in ca.trust.root_keys]
    bundle = ca.folder / "bundle.json"
    bundle.write_text(json_format.MessageToJson(realm_trust_pb2.Bundle(realm=ca.trust.realm, root_keys=root_keys)))
    values: dict[str, Any] = {
        **tls_settings(ca.folder, "directory"),
        "internal_listen": "127.0.0.1:0",
        "ca": f"127.0.0.1:{ca.service.internal_port}",
        "cache_url": cache,
        "bundle": bundle,
        "drain_seconds": 1,
    }
    log = make_logger("directory", "info", "json", io.StringIO())
    async with running("directory", DirectorySettings(**values), compose, clock=ca.clock, log=log) as service:
        target = f"127.0.0.1:{service.internal_port}"
        async with internal_channel(target, service_settings(ca.folder, "delivery"), "directory") as channel:
            yield DirectoryServiceStub(channel), KeyEventServiceStub(channel)


async def test_a_renewal_at_the_ca_reaches_whoever_watches_and_looks_up(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with asyncio.timeout(60), open_ca(tmp_path) as ca, directory_of(ca, valkey.url) as (look_ups, events):
        watch = events.WatchKeyEvents(pb.WatchKeyEventsRequest())
        await watch.read()
        old = await ca.enroll("alice")
        enrolled = await watch.read()
        assert [event.kind for event in enrolled.events] == [key_info_pb2.KEY_EVENT_KIND_ENROLLED]
        first = await look_ups.GetKeyInfo(pb.GetKeyInfoRequest(username="alice"))
        assert ca.read(first.key_info, "alice").find(old.fingerprint)
        new = await ca.renew(old)
        renewed = await watch.read()
        assert [(event.sequence, event.fingerprint) for event in renewed.events] == [(2, new.fingerprint)]
        second = await look_ups.GetKeyInfo(pb.GetKeyInfoRequest(username="alice"))
        record = ca.read(second.key_info, "alice")
        assert [key.fingerprint for key in record.good_keys(ca.clock())] == [new.fingerprint]


async def test_many_users_at_once(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with asyncio.timeout(60), open_ca(tmp_path) as ca, directory_of(ca, valkey.url) as (look_ups, _):
        for username in ("alice", "bob"):
            await ca.enroll(username)
        response = await look_ups.BatchGetKeyInfo(pb.BatchGetKeyInfoRequest(usernames=["bob", "nobody", "alice"]))
        bob, nobody, alice = response.results
        assert ca.read(bob.key_info, "bob").revision == 1
        assert nobody.failure == pb.LOOK_UP_FAILURE_NOT_FOUND
        assert ca.read(alice.key_info, "alice").revision == 1
