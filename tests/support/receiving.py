"""The serving of streams, without the calls that carry them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import CollectorRegistry

from keypost.protocol.realm_trust import ServedTrust
from keypost_services.delivery.metrics import Metrics
from keypost_services.delivery.receiving import Receiving
from keypost_services.runtime.realm_trust import TrustKeeper
from support.clock import ManualClock
from support.realm import SimulatedRealm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from keypost_services.delivery.mailboxes import Mailboxes


class _Source:
    def __init__(self, realm: SimulatedRealm) -> None:
        self._realm = realm

    async def get_realm_trust(self) -> ServedTrust:
        return ServedTrust(self._realm.signed_trust())


def new_receiving(mailboxes: Mailboxes, ids: Callable[[], str] = lambda: "stream", **options: Any) -> Receiving:
    """Return the streams of one replica, which stand on a realm of their own."""
    clock = ManualClock()
    realm = SimulatedRealm(clock=clock)
    trust = TrustKeeper(
        _Source(realm).get_realm_trust,
        clock,
        structlog.wrap_logger(structlog.testing.CapturingLogger()),
        realm=realm.realm,
        root_keys=[realm.root.public_key_der],
        on_change=lambda _: None,
    )
    metrics = Metrics(CollectorRegistry())
    options.setdefault("on_left", lambda _: None)
    return Receiving(mailboxes, trust, clock=clock, ids=ids, jitter=lambda: 0.5, metrics=metrics, **options)


async def silence() -> AsyncIterator[Sequence[str]]:
    """Acknowledge nothing, and do not end."""
    await asyncio.Event().wait()
    yield []
