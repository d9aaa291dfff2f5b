"""Who has neither certificate nor token connects, again and again: the service must go on."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from support.tls import issue_tls

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from support.attacks import Without

TESTS = Path(__file__).parents[1]
AT_ONCE, TOGETHER = 4, 20
CONNECTIONS = 20_000
"""Without the defence the process ends after 6,500 on average, by chance."""
WITHOUT_END = 1_000_000
PATIENCE = 60.0
"""Seconds without a single connection, after which it is given up: a slow machine takes longer for all of them."""


@contextlib.contextmanager
def server(folder: Path, out: Without | None) -> Iterator[subprocess.Popen[str]]:
    """Run a server in a process of its own: what is wrong ends it."""
    issued = issue_tls()
    certificate, private_key = folder / "public.pem", folder / "public.key"
    certificate.write_bytes(issued.certificate_pem)
    private_key.write_bytes(issued.private_key_pem)
    defences = [f"{one.function}={one.instead}" for one in out.out] if out else []
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-m", "support.crowded_server", str(certificate), str(private_key), *defences],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class Crowd:
    """Connects from several threads at once, up to so many times, and says nothing."""

    def __init__(self, process: subprocess.Popen[str], port: int, most: int) -> None:
        self._process = process
        self._port = port
        self._most = most
        self._last = time.monotonic()
        self.connected = 0
        self._lock = threading.Lock()

    def _come(self) -> None:
        while self.connected < self._most and self._process.poll() is None and self._goes_on():
            with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
                for _ in range(TOGETHER):
                    stack.enter_context(socket.create_connection(("127.0.0.1", self._port), timeout=5))
                    with self._lock:
                        self.connected += 1
                        self._last = time.monotonic()

    def _goes_on(self) -> bool:
        return time.monotonic() - self._last < PATIENCE

    def come(self) -> None:
        """Connect until it is enough, or the process has ended."""
        threads = [threading.Thread(target=self._come) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_connections_without_end(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The certificate is looked at for each connection; that must not be what ends the process."""
    out = request.node.callspec.params["without"]
    with server(tmp_path, out) as process:
        assert process.stdout is not None
        # Undefended it only has to end at some time.
        crowd = Crowd(process, int(process.stdout.readline()), CONNECTIONS if out is None else WITHOUT_END)
        crowd.come()
        assert process.poll() is None, f"ended by signal {-process.returncode} after {crowd.connected} connections"
    assert crowd.connected >= CONNECTIONS, "nobody gets a connection any more"
