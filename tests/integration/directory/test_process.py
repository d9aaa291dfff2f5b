"""``keypost-directory`` as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import TYPE_CHECKING

from keypost.clock import system_clock
from keypost.directory.v1 import directory_service_pb2 as pb
from keypost.directory.v1.directory_service_pb2_grpc import DirectoryServiceStub
from support.directory import running_ca, service_settings, tls_settings, write_bundle
from support.internal_channel import internal_channel
from support.realm import SimulatedRealm

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from pathlib import Path

    from support.valkey import ValkeyServer


async def start(*arguments: str, **settings: object) -> Process:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEYPOST_")}
    own = {f"KEYPOST_DIRECTORY_{name.upper()}": str(value) for name, value in settings.items()}
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "keypost_services.directory", "serve", *arguments)
    return await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env={**inherited, **own})


async def test_it_serves_until_sigterm(tmp_path: Path, valkey: ValkeyServer) -> None:
    realm = SimulatedRealm(system_clock)
    realm.enroll("alice")
    async with asyncio.timeout(60), running_ca(tmp_path, realm) as host:
        process = await start(
            **tls_settings(tmp_path, "directory"),
            internal_listen="127.0.0.1:0",
            ca=f"127.0.0.1:{host.port}",
            cache_url=valkey.url,
            bundle=write_bundle(tmp_path, realm),
        )
        assert process.stdout
        ports = None
        async for line in process.stdout:
            if (ports := json.loads(line))["event"] == "serving":
                break
        assert ports
        target = f"127.0.0.1:{ports['internal_port']}"
        async with internal_channel(target, service_settings(tmp_path, "delivery"), "directory") as channel:
            request = pb.GetKeyInfoRequest(username="alice")
            assert (await DirectoryServiceStub(channel).GetKeyInfo(request)).key_info.HasField("record")
        process.send_signal(signal.SIGTERM)
        _, complaint = await process.communicate()
        assert (process.returncode, complaint) == (0, b"")


async def test_a_bundle_of_another_realm_stops_the_start_with_one_line(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with asyncio.timeout(60), running_ca(tmp_path, SimulatedRealm(system_clock)) as host:
        process = await start(
            **tls_settings(tmp_path, "directory"),
            ca=f"127.0.0.1:{host.port}",
            cache_url=valkey.url,
            bundle=write_bundle(tmp_path, SimulatedRealm(system_clock, realm="example.net")),
        )
        _, complaint = await process.communicate()
    assert process.returncode == 1
    (line,) = complaint.decode().splitlines()
    assert "KEYPOST_DIRECTORY_BUNDLE" in line


async def test_help_names_every_setting() -> None:
    async with asyncio.timeout(60):
        process = await start("--help")
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert b"KEYPOST_DIRECTORY_CACHE_TIMEOUT_SECONDS (default 0.2)" in output
