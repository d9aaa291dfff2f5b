from __future__ import annotations

import pytest

from keypost.client import Client
from support.people import alice, bob, clock, generate, open_client, services, tls

__all__ = ["alice", "bob", "clock", "generate", "open_client", "services", "tls"]


@pytest.fixture
def surface() -> type[Client]:
    """The client itself: these tests walk from the object in hand to all that it reaches."""
    return Client
