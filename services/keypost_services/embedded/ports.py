"""Free ports of the loopback address, the same ones at the next start where they are still free."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING

from keypost_services.embedded.layout import LOOPBACK, SERVICES, Ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

KINDS = ("public", "internal")


def choose_ports(remembered: Path, names: Sequence[str] = SERVICES) -> dict[str, Ports]:
    """Return ports for every process: those in ``remembered`` if all are free, else new ones, and remember them.

    Nothing holds them until the services do: whoever takes one in between makes that service fail, visibly.

    Args:
        remembered: The file of the last time's.
        names: The processes.
    """
    ports = _read(remembered, names)
    if ports is None or not _all_free(ports):
        ports = _new_ports(names)
        remembered.write_text(json.dumps(ports), encoding="utf-8")
    return ports


def _read(path: Path, names: Sequence[str]) -> dict[str, Ports] | None:
    try:
        ports = json.loads(path.read_text(encoding="utf-8"))
        return {name: {kind: int(ports[name][kind]) for kind in KINDS} for name in names}
    except (OSError, ValueError, KeyError, TypeError):  # the first start, or somebody edited it
        return None


def _all_free(ports: Mapping[str, Ports]) -> bool:
    wanted = [port for own in ports.values() for port in own.values()]
    try:
        with bound(wanted):
            return True
    except (OSError, OverflowError):
        return False


def _new_ports(names: Sequence[str]) -> dict[str, Ports]:
    with bound([0] * (len(names) * len(KINDS))) as found:
        numbers = iter(found)
        return {name: {kind: next(numbers) for kind in KINDS} for name in names}


@contextlib.contextmanager
def bound(ports: list[int]) -> Iterator[list[int]]:
    """Hold all ``ports`` at once (0: any) and yield their numbers."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in ports]
        for held, port in zip(sockets, ports, strict=True):
            if os.name == "posix":  # as the services will: what merely lingers there is no obstacle
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((LOOPBACK, port))
        yield [int(held.getsockname()[1]) for held in sockets]
