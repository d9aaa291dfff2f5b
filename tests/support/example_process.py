"""The example service in a process of its own, and what it says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost_services.embedded.certificates import issue
from support.service import REALM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TESTS = Path(__file__).parents[1]
COMMAND = (sys.executable, "-m", "support.example_service")


class Process:
    """The example service, its output read line by line."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def line(self, event: str) -> dict[str, Any]:
        """Wait for a log line."""
        assert self.process.stdout is not None
        while raw := await self.process.stdout.readline():
            self.lines.append(json.loads(raw))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        pytest.fail(f"no line says {event}: {self.lines}")

    async def end(self) -> tuple[int, str]:
        """Return exit code and standard error; the rest of the log is read."""
        out, err = await self.process.communicate()
        self.lines += [json.loads(raw) for raw in out.splitlines()]
        assert self.process.returncode is not None
        return self.process.returncode, err.decode()

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]

    async def channel(self) -> grpc.aio.Channel:
        serving = await self.line("serving")
        credentials = grpc.ssl_channel_credentials((self.folder / "public-root.pem").read_bytes())
        return grpc.aio.secure_channel(f"127.0.0.1:{serving['public_port']}", credentials)


def environment(folder: Path, **changes: str) -> dict[str, str]:
    issue(folder, REALM, ["example"])
    settings = {
        "REALM": REALM,
        "TLS_CERTIFICATE": str(folder / "example/public.pem"),
        "TLS_PRIVATE_KEY": str(folder / "example/public.key"),
        "READY_FILE": str(folder / "ready.json"),
        "DRAIN_SECONDS": "10",
        **changes,
    }
    own = {f"KEYPOST_EXAMPLE_{name}": value for name, value in settings.items()}
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **own}


@contextlib.asynccontextmanager
async def started(folder: Path, *arguments: str, **changes: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *(arguments or ["serve"]),
        env=environment(folder, **changes),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            yield Process(folder, process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
