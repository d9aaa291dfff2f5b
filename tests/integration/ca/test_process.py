"""``keypost-ca`` as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.ca.v1.ca_service_pb2_grpc import CertificateAuthorityServiceStub
from keypost_services.embedded.certificates import issue

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

COMMAND = (sys.executable, "-m", "keypost_services.ca")


async def start(*arguments: str, **environment: str) -> Process:
    pipe = asyncio.subprocess.PIPE
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEYPOST_")}
    return await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=pipe, stderr=pipe, env={**inherited, **environment}
    )


@asynccontextmanager
async def running(environment: Mapping[str, str]) -> AsyncIterator[tuple[Process, int]]:
    """Yield the serving process and its public port; it is gone afterwards."""
    process = await start("serve", **environment)
    try:
        yield process, await public_port(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def public_port(process: Process) -> int:
    """Return the port once the process serves."""
    assert process.stdout
    async for line in process.stdout:
        said = json.loads(line)
        if said["event"] == "serving":
            return int(said["public_port"])
    raise AssertionError("it ended before it served")


async def environment_of(folder: Path) -> dict[str, str]:
    process = await start("init", str(folder / "realm"), "--realm", "example.org", "--no-passphrase", "--json")
    output, _ = await process.communicate()
    assert json.loads(output)["realm"] == "example.org"
    await asyncio.to_thread(issue, folder, "example.org", ["ca"])
    return {
        "KEYPOST_CA_REALM": "example.org",
        "KEYPOST_CA_TLS_CERTIFICATE": str(folder / "ca" / "public.pem"),
        "KEYPOST_CA_TLS_PRIVATE_KEY": str(folder / "ca" / "public.key"),
        "KEYPOST_CA_DATABASE": f"sqlite:///{folder / 'ca.db'}",
        "KEYPOST_CA_REALM_FOLDER": str(folder / "realm"),
    }


async def test_it_serves_until_it_is_told_to_end_and_locks_its_database(tmp_path: Path) -> None:
    environment = await environment_of(tmp_path)
    async with asyncio.timeout(180), running(environment) as (process, port):
        root = (tmp_path / "public-root.pem").read_bytes()
        async with grpc.aio.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(root)) as channel:
            answer = await CertificateAuthorityServiceStub(channel).GetRealmTrust(pb.GetRealmTrustRequest())
        assert answer.realm_trust.realm_trust
        second = await start("serve", **environment)
        _, complaint = await second.communicate()
        assert second.returncode == 1
        assert [b"another keypost-ca process" in line for line in complaint.splitlines()] == [True]
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        assert process.returncode == 0


async def test_it_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    environment = await environment_of(tmp_path)
    async with asyncio.timeout(60):
        process = await start("serve", **{**environment, "KEYPOST_CA_SIGN_IN": "everybody"})
        _, complaint = await process.communicate()
    assert process.returncode == 2
    (line,) = complaint.decode().splitlines()
    assert "KEYPOST_CA_SIGN_IN" in line
