from __future__ import annotations

from support.people import alice, bob, clock, generate, impatient, open_client, services, surface, tls
from support.second_device import second

__all__ = ["alice", "bob", "clock", "generate", "impatient", "open_client", "second", "services", "surface", "tls"]
