"""Each thing that a service needs is taken away from it: what it shows, whether it is ready, and what still works.

docs/operations.md has the table; the rows that no process or way can be taken away for (files, the push gateway, one
master of a cluster) are tested where those are.
"""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from keypost_services.embedded.layout import Layout, Shape
from support.faults.stack import running_stack
from support.probing import answered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.faults.stack import Stack

SERVICES = ("ca", "directory", "delivery")
SECONDS = 40.0
PAUSE_SECONDS = 0.1
"""Between two probes: nobody announces what they say."""
PARTS = {
    "ca": {"limits", "certificates", "database", "realm"},
    "directory": {"limits", "certificates", "calling", "trust", "redis", "ca", "watch"},
    "delivery": {"limits", "certificates", "calling", "trust", "mailboxes", "key_events", "emptying"},
}


class Probes:
    """Asks the services as Kubernetes and Prometheus do."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._layout = Layout(stack.folder)

    async def ask(self, service: str, path: str) -> tuple[int, str]:
        """Return status and text of a path; (0, "") if nobody answers."""
        return await asyncio.to_thread(_get, f"http://127.0.0.1:{self._port(service, 'metrics_port')}{path}")

    async def ready(self, service: str) -> tuple[bool, set[str]]:
        """Return whether a service is ready, and its parts that are degraded."""
        status, text = await self.ask(service, "/ready")
        said = json.loads(text or "{}")
        assert status in {0, 200, 503}
        assert said.get("ready", False) is (status == 200)
        return status == 200, set(said.get("degraded", {}))

    async def degraded(self, service: str) -> dict[str, float]:
        """Return what the metrics say of each part."""
        _, text = await self.ask(service, "/metrics")
        return {part: float(value) for part, value in re.findall(r'keypost_degraded\{part="(\w+)"\} (\S+)', text)}

    async def until(self, service: str, *, ready: bool, parts: set[str]) -> None:
        """Return once a service is as it should be; what it shows of these parts its metrics show too."""
        said: Any = None
        try:
            async with asyncio.timeout(SECONDS):
                while (said := await self.ready(service)) != (ready, parts):  # noqa: ASYNC110  # another process
                    await asyncio.sleep(PAUSE_SECONDS)
        except TimeoutError:
            raise AssertionError(f"{service}: {said}, not {(ready, parts)}") from None
        measured = await self.degraded(service)
        assert {part for part, value in measured.items() if value} >= parts
        assert f"keypost_ready {float(ready)}" in (await self.ask(service, "/metrics"))[1]
        # Kubernetes asks by gRPC. Whatever a service lacks, to end the process would not bring it back.
        port = self._port(service, "health_port")
        probed = [await asyncio.to_thread(answered, port, name) for name in ("startup", "readiness", "liveness")]
        assert probed == [True, ready, True]

    async def well(self) -> None:
        for service in SERVICES:
            await self.until(service, ready=True, parts=set())

    def _port(self, service: str, name: str) -> int:
        return int(json.loads(self._layout.ready_file(service).read_text())[name])


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # http alone
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


@contextmanager
def refused(stack: Stack, way: str) -> Iterator[None]:
    stack.links[way].refuse()
    try:
        yield
    finally:
        stack.links[way].mend()


async def test_what_fails_is_shown_and_what_can_go_on_does(tmp_path: Path) -> None:
    shape = Shape("degraded", postgres=True)
    settings = {"KEYPOST_DIRECTORY_START_SECONDS": "0.5"}
    async with running_stack(tmp_path / "stack", shape, processes=SERVICES, enrolled=False, settings=settings) as stack:
        probes, alice = Probes(stack), stack.devices["alice-1"]
        await alice.start()
        await alice.do("enroll", username="alice")
        await probes.well()
        for service in SERVICES:
            assert await probes.degraded(service) == dict.fromkeys(PARTS[service], 0.0)

        # From now on directory and delivery hold her record.
        await alice.do("look_up")
        await alice.do("list")
        with refused(stack, "ca>postgres"):
            await probes.until("ca", ready=False, parts={"database"})
            await alice.do("look_up")
            await alice.do("list")
            await probes.until("directory", ready=True, parts=set())
        await probes.well()

        with refused(stack, "directory>valkey"):
            # A key event is acted upon in the cache; calls are counted in the same server.
            await alice.do("renew")
            await alice.do("look_up")
            await probes.until("directory", ready=True, parts={"redis", "limits"})
            await alice.do("look_up")
        await _until_well(probes, alice)

        await stack.servers["ca"].kill()
        await probes.until("directory", ready=True, parts={"watch"})
        await probes.until("delivery", ready=True, parts=set())
        await alice.do("list")
        with refused(stack, "delivery>directory"):
            await probes.until("delivery", ready=True, parts={"key_events"})
            await alice.do("list")
        for late in ("directory", "delivery"):
            await stack.servers[late].kill()
            await stack.servers[late].start()
        await probes.until("directory", ready=False, parts={"trust", "watch"})
        await probes.until("delivery", ready=False, parts={"trust", "key_events"})
        await stack.servers["ca"].start()
        await probes.well()

        with refused(stack, "delivery>valkey"):
            await probes.until("delivery", ready=False, parts={"mailboxes"})
            await alice.do("look_up")
        await probes.well()

        await stack.servers["valkey"].kill()
        await probes.until("delivery", ready=False, parts={"mailboxes"})
        await probes.until("ca", ready=True, parts=set())
        await stack.servers["valkey"].start()
        await _until_well(probes, alice)


async def _until_well(probes: Probes, device: Any) -> None:
    """Return once all is well again; what is asked for calls and key events alone recovers with the next ones."""
    async with asyncio.timeout(SECONDS):
        while [parts for service in SERVICES if (parts := (await probes.ready(service))[1])]:
            await device.do("renew")
            await device.do("look_up")
            await device.do("list")
    await probes.well()
