"""Records of users' keys: looked up at the directory, verified, kept while they may be relied upon.

Whatever the directory answers proves itself or is not used. An event says that a record has changed: from then on
only the changed one counts. With the events away, a record lives until its own next_update.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from cachetools import LRUCache

from keypost.clock import SECOND, Clock
from keypost.errors import KeypostError
from keypost.protocol.continuity import check_successor
from keypost.protocol.errors import RecordRegressedError
from keypost_services.delivery.errors import directory_unavailable
from keypost_services.delivery.trust import realm_constants
from keypost_services.runtime.errors import ServiceError, SourceAwayError
from keypost_services.runtime.records import read_record
from keypost_services.runtime.requests import user_not_found

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost.keys.v1 import key_info_pb2
    from keypost.protocol.key_info import KeyRecord
    from keypost.protocol.realm_trust import Constants
    from keypost_services.delivery.metrics import Metrics
    from keypost_services.runtime.realm_trust import TrustKeeper

UNCONFIRMED_PAUSE = SECOND
"""After a revision that the CA does not confirm, that user's is not asked for again for so long."""
ATTEMPTS = 2
"""An answer may cross an event on its way; then the question is put once more."""
NOT_FOUND = "USER_NOT_FOUND"


class KeyInfoSource(Protocol):
    """Where key info comes from: the directory."""

    async def get_key_info(self, username: str, *, min_revision: int = 0) -> key_info_pb2.KeyInfo:
        """Return the key info of a user, unverified; raises :class:`KeypostError`."""
        ...


@dataclass
class _Held:
    """What is known of one user.

    Attributes:
        record: The newest verified record, if there was one; also what its successor is compared with.
        floor: A lower revision is not good enough: an event has named this one.
        usable: Whether nothing speaks against the record but its age.
        unconfirmed_until: A higher revision was claimed that the CA did not have; until then nobody asks again.
    """

    record: KeyRecord | None = None
    floor: int = 0
    usable: bool = False
    unconfirmed_until: int = 0
    questions: dict[int, asyncio.Task[KeyRecord]] = field(default_factory=dict)


class Records:
    """Looks up and keeps records.

    Args:
        source: The directory.
        trust: The realm's trust.
        clock: The time.
        metrics: Counts look-ups.
        most_users: How many users' records are kept.

    Attributes:
        on_newer: Is told of each newer record, with the one before it, if there was one.
    """

    def __init__(
        self, source: KeyInfoSource, trust: TrustKeeper, clock: Clock, metrics: Metrics, *, most_users: int = 10_000
    ) -> None:
        self._source = source
        self._trust = trust
        self._clock = clock
        self._metrics = metrics
        self.on_newer: Callable[[KeyRecord | None, KeyRecord], None] = lambda _previous, _record: None
        self._users: LRUCache[str, _Held] = LRUCache(most_users)
        # Who is asked for the first time stands apart: names that do not exist must not push others out.
        self._new: dict[str, _Held] = {}

    async def current(self, username: str) -> KeyRecord:
        """Return the record of a user, fresh as far as is known here.

        Raises:
            ServiceError: USER_NOT_FOUND; DIRECTORY_UNAVAILABLE.
        """
        return await self.at_least(username, 0)

    async def at_least(self, username: str, revision: int) -> KeyRecord:
        """Return the record of a user, of this revision if the CA has it, else the current one.

        Raises:
            ServiceError: USER_NOT_FOUND; DIRECTORY_UNAVAILABLE.
        """
        if (record := self.held(username, revision)) is not None:
            return record
        held = self._find(username) or self._new.setdefault(username, _Held())
        return await self._ask_once(username, held, max(revision, held.floor))

    def held(self, username: str, revision: int) -> KeyRecord | None:
        """Return what ``at_least`` would, if nobody has to be asked for it."""
        held = self._find(username)
        record = None if held is None else self._fresh(held)
        if held is None or record is None:
            return None
        return record if record.revision >= revision or self._clock() < held.unconfirmed_until else None

    def newest(self, username: str) -> KeyRecord | None:
        """Return the newest verified record of a user that is held here, fresh or not; nobody is asked."""
        held = self._find(username)
        return held.record if held is not None else None

    def changed(self, username: str, revision: int) -> None:
        """Take note that a user's record has changed: from now on nothing below ``revision`` counts."""
        if (held := self._find(username)) is not None:
            held.floor = max(held.floor, revision)

    def forget_all(self) -> None:
        """Take note that any record may have changed."""
        for held in (*self._users.values(), *self._new.values()):
            held.usable = False
            held.questions = {}

    def _find(self, username: str) -> _Held | None:
        return self._users.get(username) or self._new.get(username)

    def _fresh(self, held: _Held) -> KeyRecord | None:
        record = held.record
        if record is None or not held.usable or record.revision < held.floor or self._clock() >= record.next_update:
            return None
        return record

    async def _ask_once(self, username: str, held: _Held, revision: int) -> KeyRecord:
        """Ask the directory, once for everybody who wants the same; goes on if the one who asked first goes away."""
        question = held.questions.get(revision)
        if question is None:
            question = held.questions[revision] = asyncio.create_task(self._ask(username, held, revision))
            question.add_done_callback(lambda done: self._answered(username, held, revision, done))
        return await asyncio.shield(question)

    def _answered(self, username: str, held: _Held, revision: int, question: asyncio.Task[KeyRecord]) -> None:
        if held.questions.get(revision) is question:
            del held.questions[revision]
        if self._new.get(username) is held and (held.record or not held.questions):
            del self._new[username]
        if held.record is not None:
            self._users[username] = held
        if not question.cancelled():
            question.exception()  # whoever waited has it

    async def _ask(self, username: str, held: _Held, revision: int) -> KeyRecord:
        for _ in range(ATTEMPTS):
            mine = held.questions
            self._keep(held, await self._look_up(username, held, max(revision, held.floor)))
            held.usable = held.usable or held.questions is mine
            if (record := self._fresh(held)) is not None:
                if record.revision < revision:
                    held.unconfirmed_until = self._clock() + UNCONFIRMED_PAUSE
                return record
        raise directory_unavailable()

    def _keep(self, held: _Held, record: KeyRecord) -> None:
        previous, held.record = held.record, record
        if previous is None or previous.revision < record.revision:
            self.on_newer(previous, record)

    async def _look_up(self, username: str, held: _Held, revision: int) -> KeyRecord:
        before = held.record
        constants = await realm_constants(self._trust)
        try:
            key_info = await self._fetch(username, held, revision)
            record = await read_record(key_info, trust=self._trust, username=username, now=self._clock())
            if held.record is not before and held.record is not None and record.revision < held.record.revision:
                return held.record  # a later question was answered sooner: this answer was overtaken, not wrong
            if held.record is not None:
                record = check_successor(held.record, record, constants)
        except KeypostError as error:
            self._metrics.look_up(error.reason)
            raise user_not_found(username) if error.reason == NOT_FOUND else directory_unavailable() from error
        except SourceAwayError as error:
            raise directory_unavailable() from error
        self._metrics.look_up("OK")
        return record

    async def _fetch(self, username: str, held: _Held, revision: int) -> key_info_pb2.KeyInfo:
        try:
            return await self._source.get_key_info(username, min_revision=revision)
        except KeypostError as error:
            if error.reason == NOT_FOUND:
                _check_never_seen(username, held)
            raise


def _check_never_seen(username: str, held: _Held) -> None:
    if held.record is not None or held.floor:
        raise RecordRegressedError(f"{username} was seen before, and users are never removed", username=username)


class CallersRecords:
    """The records of callers: the same ones.

    Args:
        records: All records.
        trust: The realm's trust.
    """

    def __init__(self, records: Records, trust: TrustKeeper) -> None:
        self._records = records
        self._trust = trust

    async def find_record(self, username: str, min_revision: int) -> KeyRecord | None:
        """Return the record of a user, None if there is no such user; raises DIRECTORY_UNAVAILABLE."""
        try:
            return await self._records.at_least(username, min_revision)
        except ServiceError as error:
            if error.reason == NOT_FOUND:
                return None
            raise

    async def constants(self) -> Constants:
        """Return the realm's constants; raises DIRECTORY_UNAVAILABLE."""
        return await realm_constants(self._trust)
