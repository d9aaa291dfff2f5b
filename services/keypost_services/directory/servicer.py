"""The directory's two gRPC services: convert, call the domain, convert back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from keypost.directory.v1 import directory_service_pb2 as pb
from keypost.directory.v1.directory_service_pb2_grpc import DirectoryServiceServicer, KeyEventServiceServicer
from keypost_services.directory import convert, errors
from keypost_services.directory.key_events.hub import EventsForgottenError
from keypost_services.directory.look_up.ports import Failure
from keypost_services.runtime.errors import SourceAwayError
from keypost_services.runtime.limits.call_limits import note_unknown_users
from keypost_services.runtime.requests import read_history_from, read_number, read_username, read_usernames

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import grpc.aio

    from keypost_services.directory.key_events.hub import EventHub
    from keypost_services.directory.key_events.standing import Standing
    from keypost_services.directory.look_up.look_up import LookUp
    from keypost_services.directory.metrics import Metrics
    from keypost_services.runtime.handlers import Serialised
    from keypost_services.runtime.realm_trust import TrustKeeper

    Context = grpc.aio.ServicerContext[Any, Any]

HEARTBEAT_SECONDS = 15.0
CATCH_UP_SECONDS = 2.0
MOST_WATCHES = 1_000


class DirectoryServicer(DirectoryServiceServicer):
    """What devices and the delivery service call."""

    def __init__(self, look_up: LookUp, trust: TrustKeeper) -> None:
        self._look_up = look_up
        self._trust = trust

    async def GetRealmTrust(  # noqa: N802, D102  # named by the proto
        self, request: pb.GetRealmTrustRequest, context: Context
    ) -> pb.GetRealmTrustResponse:
        del context
        after_sequence = read_number(request.after_sequence, "after_sequence")
        try:
            served = self._trust.served(after_sequence)
        except SourceAwayError as error:
            raise errors.ca_unavailable() from error
        return pb.GetRealmTrustResponse(realm_trust=served.signed, earlier=served.earlier)

    async def GetKeyInfo(  # type: ignore[override]  # noqa: N802, D102  # records are kept serialised
        self, request: pb.GetKeyInfoRequest, context: Context
    ) -> Serialised:
        del context
        username = read_username(request.username)
        history_from = read_history_from(request.history_from_fingerprint)
        min_revision = read_number(request.min_revision, "min_revision")
        outcome = await self._look_up.find(username, min_revision=min_revision)
        return convert.key_info_response(username, outcome, history_from)

    async def BatchGetKeyInfo(  # type: ignore[override]  # noqa: N802, D102
        self, request: pb.BatchGetKeyInfoRequest, context: Context
    ) -> Serialised:
        del context
        usernames = read_usernames(request.usernames)
        outcomes = await self._look_up.find_many(usernames)
        note_unknown_users([name for name, outcome in outcomes.items() if outcome is Failure.NOT_FOUND])
        return convert.batch_response(usernames, outcomes)


class KeyEventServicer(KeyEventServiceServicer):
    """What the delivery service watches.

    Args:
        hub: The events.
        standing: Whether this directory's own watch stands: without it there is nothing to promise.
        metrics: Where watches are counted.
        heartbeat_seconds: After so long without an event an empty message is sent.
        most_watches: How many watches there may be.
    """

    def __init__(
        self,
        hub: EventHub,
        standing: Standing,
        metrics: Metrics,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        most_watches: int = MOST_WATCHES,
    ) -> None:
        self._hub = hub
        self._standing = standing
        self._metrics = metrics
        self._heartbeat_seconds = heartbeat_seconds
        self._most_watches = most_watches
        self._watches = 0

    async def WatchKeyEvents(  # noqa: N802, D102  # named by the proto
        self, request: pb.WatchKeyEventsRequest, context: Context
    ) -> AsyncIterator[pb.WatchKeyEventsResponse]:
        del context
        with self._counted():
            # Before any wait: what begins anew meanwhile is not what this watch began with.
            generation = self._hub.generation
            self._check_standing()
            sequence = await self._begin(request)
            while True:
                events = self._after(sequence, generation)
                self._check_standing()
                sequence += len(events)
                yield pb.WatchKeyEventsResponse(events=events, newest_sequence=self._hub.newest)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._heartbeat_seconds):
                        await self._hub.wait_beyond(sequence, generation)

    async def _begin(self, request: pb.WatchKeyEventsRequest) -> int:
        if not request.HasField("after_sequence"):
            return self._hub.newest
        after = read_number(request.after_sequence, "after_sequence")
        # The caller may come from a replica that is a moment ahead of this one.
        if not await self._hub.wait_until(after, CATCH_UP_SECONDS):
            raise errors.sequence_ahead()
        return after

    def _after(self, sequence: int, generation: int) -> Any:
        try:
            return self._hub.after(sequence, generation)
        except EventsForgottenError as error:
            raise errors.events_forgotten() from error

    def _check_standing(self) -> None:
        if not self._standing.is_standing():
            raise errors.ca_unavailable()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        if self._watches >= self._most_watches:
            raise errors.too_many_watches()
        self._watches += 1
        self._metrics.watchers.set(self._watches)
        try:
            yield
        finally:
            self._watches -= 1
            self._metrics.watchers.set(self._watches)
