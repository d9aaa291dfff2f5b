"""Raw envelopes that wait or were set aside: the rows behind ``EnvelopePart``."""

# ruff: noqa: S608  # statements are put together from constants of this module; values are always parameters

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from keypost.keystore.errors import KeyStoreFullError
from keypost.keystore.values import Totals, WaitingEnvelope
from keypost.protocol.encoding import sha256

if TYPE_CHECKING:
    from keypost.keystore.database import Database, Row

BOUND = "list, digest, accept_time, receive_time, reason, username, sealed_to"
COLUMNS = f"sequence, envelope, came, {BOUND}"


class SqliteEnvelopes(ABC):
    """``EnvelopePart`` in SQLite: one of the two lists.

    Args:
        database: The database.
        limit: How much the list takes.
        of_one_user: How much of it the envelopes of one sending user may take.
    """

    _name: ClassVar[str]

    def __init__(self, database: Database, limit: Totals, of_one_user: Totals) -> None:
        self._database = database
        self._limit = limit
        self._of_one_user = of_one_user

    def add(self, envelope: WaitingEnvelope) -> int:
        """Keep an envelope once, and return its sequence."""
        digest = sha256(envelope.envelope)
        with self._database.transaction():
            held = self._database.number(
                "SELECT sequence FROM envelopes WHERE list = ? AND digest = ?", self._name, digest
            )
            if held:
                return held
            self._check_room(envelope.username, len(envelope.envelope))
            return self._write(envelope, digest)

    def _write(self, envelope: WaitingEnvelope, digest: bytes) -> int:
        bound = (
            self._name,
            digest,
            envelope.accept_time,
            envelope.receive_time,
            envelope.reason,
            envelope.username,
            envelope.sealed_to,
        )
        cursor = self._database.run(
            f"INSERT INTO envelopes ({BOUND}, came, size, envelope) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *bound,
            envelope.came,
            len(envelope.envelope),
            self._database.seal(("envelopes", "envelope", *bound, *_moved(envelope.came)), envelope.envelope),
        )
        return cursor.lastrowid or 0

    def _check_room(self, username: str, size: int) -> None:
        if size > min(self._limit.size, self._of_one_user.size):
            raise KeyStoreFullError("the envelope alone exceeds the limit of its list", list=self._name)
        self._keep_to_share(username, size)
        self._keep_to_limit(username, size)

    def _keep_to_share(self, username: str, size: int) -> None:
        while not _has_room(self._totals(username), self._of_one_user, size):
            self._make_room_in_share(username)

    def _keep_to_limit(self, username: str, size: int) -> None:
        while not _has_room(self._totals(), self._limit, size):
            self._make_room_in_list(username, size)

    @abstractmethod
    def _make_room_in_share(self, username: str) -> None:
        """Have an envelope of a user give way to another of his own; or raise KeyStoreFullError."""

    @abstractmethod
    def _make_room_in_list(self, username: str, size: int) -> None:
        """Have an envelope of anybody give way to one of this user; or raise KeyStoreFullError."""

    def _count_dropped(self) -> None:
        self._database.run(
            "INSERT INTO dropped VALUES (?, 1) ON CONFLICT (list) DO UPDATE SET count = count + 1", self._name
        )

    def _greediest(self, size: int) -> str:
        """Return who takes most of what this many bytes more lack: places, bytes, or the larger share of both."""
        by_count, by_size = self._weights(size)
        row = self._database.one(
            "SELECT username FROM envelopes WHERE list = ? GROUP BY username"
            " ORDER BY max(? * count(*), ? * total(size)) DESC, min(sequence) LIMIT 1",
            self._name,
            by_count,
            by_size,
        )
        return "" if row is None else str(row[0])

    def _weights(self, size: int) -> tuple[float, float]:
        """Return what a place and a byte weigh: its part of the limit, or nothing while there is room enough."""
        taken, limit = self._totals(), self._limit
        lacks_places, lacks_bytes = taken.count >= limit.count, taken.size + size > limit.size
        return lacks_places / max(1, limit.count), lacks_bytes / max(1, limit.size)

    def _totals(self, username: str | None = None) -> Totals:
        row = self._database.one(
            "SELECT count(*), total(size) FROM envelopes WHERE list = ? AND (? IS NULL OR username = ?)",
            self._name,
            username,
            username,
        )
        count, size = row or (0, 0)
        return Totals(count, int(size))

    def page(self, after: int = 0, *, username: str | None = None, limit: int = 64) -> tuple[WaitingEnvelope, ...]:
        """Return the next envelopes in the order in which they came."""
        rows = self._database.all(
            f"SELECT {COLUMNS} FROM envelopes WHERE list = ? AND sequence > ? AND (? IS NULL OR username = ?)"
            " ORDER BY sequence LIMIT ?",
            self._name,
            after,
            username,
            username,
            limit,
        )
        return tuple(self._read(row) for row in rows)

    def remove(self, sequence: int) -> None:
        """Remove an envelope."""
        self._database.run("DELETE FROM envelopes WHERE sequence = ? AND list = ?", sequence, self._name)

    def newest(self) -> int:
        """Return the highest sequence in the list."""
        return self._database.number("SELECT max(sequence) FROM envelopes WHERE list = ?", self._name)

    def count_sealed_to(self, *fingerprints: bytes, up_to: int, since: int = 0) -> int:
        """Return how many that first came up to a sequence, and since a time, are sealed to one of these."""
        marks = ", ".join("?" * len(fingerprints))
        return self._database.number(
            "SELECT count(*) FROM envelopes WHERE list = ? AND max(came, (came = 0) * sequence) <= ?"
            f" AND min(accept_time, receive_time) >= ? AND sealed_to IN ({marks})",
            self._name,
            up_to,
            since,
            *fingerprints,
        )

    def dropped(self) -> int:
        """Return how many envelopes were ever dropped to make room."""
        return self._database.number("SELECT count FROM dropped WHERE list = ?", self._name)

    def _read(self, row: Row) -> WaitingEnvelope:
        sequence, envelope, came, *bound = row
        opened = self._database.open(("envelopes", "envelope", *bound, *_moved(came)), envelope)
        _, _, accept_time, receive_time, reason, username, sealed_to = bound
        return WaitingEnvelope(opened, accept_time, receive_time, reason, username, sealed_to, sequence, came)


class SqliteSetAside(SqliteEnvelopes):
    """What was set aside: the oldest of a user make room for what comes, or in a full list of whoever takes most."""

    _name = "set_aside"

    def _make_room_in_share(self, username: str) -> None:
        self._database.run(
            "DELETE FROM envelopes WHERE sequence ="
            " (SELECT min(sequence) FROM envelopes WHERE list = ? AND username = ?)",
            self._name,
            username,
        )
        self._count_dropped()

    def _make_room_in_list(self, username: str, size: int) -> None:
        del username
        self._make_room_in_share(self._greediest(size))


class SqliteWaiting(SqliteEnvelopes):
    """What waits: a user whose share is full is refused; a full list sets the newest of whoever takes most aside.

    Args:
        database: The database.
        limit: How much the list takes.
        of_one_user: How much of it the envelopes of one sending user may take.
        set_aside: Where those go that give way.
    """

    _name = "waiting"

    def __init__(self, database: Database, limit: Totals, of_one_user: Totals, set_aside: SqliteSetAside) -> None:
        super().__init__(database, limit, of_one_user)
        self._set_aside = set_aside

    def _make_room_in_share(self, username: str) -> None:
        del username
        raise KeyStoreFullError(
            "too many envelopes wait for newer records; nothing more is taken until some are settled",
            list=self._name,
        )

    def _make_room_in_list(self, username: str, size: int) -> None:
        greediest = self._greediest(size)
        weights, own = self._weights(size), self._totals(username)
        if _share(self._totals(greediest), weights) <= _share(Totals(own.count + 1, own.size + size), weights):
            self._make_room_in_share(username)
        row = self._database.one(
            f"SELECT {COLUMNS} FROM envelopes WHERE list = ? AND username = ? ORDER BY sequence DESC LIMIT 1",
            self._name,
            greediest,
        )
        if row is None:
            raise AssertionError
        newest = self._read(row)
        self.remove(newest.sequence)
        self._set_aside.add(replace(newest, sequence=0, came=newest.arrival))
        self._count_dropped()


def _moved(came: int) -> tuple[int, ...]:
    """Return what binds a row that came from another list to when it first came."""
    return (came,) if came else ()


def _share(taken: Totals, weights: tuple[float, float]) -> float:
    return max(taken.count * weights[0], taken.size * weights[1])


def _has_room(taken: Totals, limit: Totals, size: int) -> bool:
    return taken.count < limit.count and taken.size + size <= limit.size
