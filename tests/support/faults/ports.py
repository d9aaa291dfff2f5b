"""Ports that a part keeps while it is dead: nobody else may get them meanwhile."""

from __future__ import annotations

import itertools
import os
import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000
_USUAL_EPHEMERAL = 32_768


def kept_ports() -> itertools.filterfalse[int]:
    """Return free ports, one after the other, that the system gives to nobody who asks for any port.

    Others take their ports (for calls as well) from the ephemeral range; these lie below.
    """
    highest = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else _USUAL_EPHEMERAL
    span = highest - _LOWEST
    start = random.Random(os.urandom(8)).randrange(span)
    return itertools.filterfalse(_is_taken, (_LOWEST + (start + offset) % span for offset in range(span)))


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False
