"""A real Valkey for tests, on a free port of the loopback interface.

::

    with running_valkey(tmp_path, appendonly="yes") as server:
        client = redis.asyncio.Redis.from_url(server.url)
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
from typing import IO, TYPE_CHECKING

from keypost_services.embedded.valkey import find_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READY = "Ready to accept connections"
STOP_SECONDS = 10
START_ATTEMPTS = 5


class ValkeyServer:
    """One server process; it may be killed and started again on the same port and folder.

    Attributes:
        port: Its TCP port.
        url: Its URL for redis-py, database 0.
    """

    def __init__(self, folder: Path, port: int, options: dict[str, str]) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self._drain: threading.Thread | None = None

    def start(self) -> None:
        """Start the server and return once it accepts connections.

        Raises:
            RuntimeError: It ended instead; the message holds what it wrote.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(self._command(), stdout=subprocess.PIPE, text=True)
        output = self._process.stdout
        if output is None:
            raise RuntimeError("no standard output")
        written = _read_until_ready(output)
        if READY not in written[-1]:
            self._process.wait()
            self._process = None
            output.close()
            raise RuntimeError("valkey-server ended:\n" + "".join(written))
        self._drain = threading.Thread(target=_discard, args=(output,), daemon=True)
        self._drain.start()

    def stop(self) -> None:
        """End the server in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a power cut would."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let the server hang: connections stand, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End a freeze."""
        self._signal(signal.SIGCONT)

    def _command(self) -> list[str]:
        fixed = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self._folder), "daemonize": "no"}
        options = {"save": ""} | self._options | fixed
        return [
            str(find_server()),
            *(part for name, value in options.items() for part in (f"--{name}", value)),
        ]

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        process.wait(STOP_SECONDS)
        if self._drain is not None:
            self._drain.join(STOP_SECONDS)
        if process.stdout is not None:
            process.stdout.close()


@contextlib.contextmanager
def running_valkey(folder: Path, **options: str) -> Iterator[ValkeyServer]:
    """Run a server in ``folder`` (persistence off unless an option says otherwise) and end it afterwards.

    Args:
        folder: Where it may write; created when missing.
        options: Settings of ``valkey.conf``, with ``_`` for ``-`` in names, such as ``appendonly="yes"``.

    Yields:
        The running server.
    """
    server = _started(folder, {name.replace("_", "-"): value for name, value in options.items()})
    try:
        yield server
    finally:
        server.kill()  # in good order it would take a tenth of a second, and what it holds is wanted by nobody


def _started(folder: Path, options: dict[str, str]) -> ValkeyServer:
    # Between finding a free port and binding it somebody else may take it.
    for _ in range(START_ATTEMPTS - 1):
        server = ValkeyServer(folder, free_port(), options)
        with contextlib.suppress(RuntimeError):
            server.start()
            return server
    server = ValkeyServer(folder, free_port(), options)
    server.start()
    return server


def free_port() -> int:
    """Return a TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _read_until_ready(output: IO[str]) -> list[str]:
    written = [""]
    for line in output:
        written.append(line)
        if READY in line:
            break
    return written


def _discard(output: IO[str]) -> None:
    # A full pipe would block the server.
    with contextlib.suppress(ValueError):
        for _ in output:
            pass
