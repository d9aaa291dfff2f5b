"""Raw envelopes that wait or were set aside: the rows behind ``EnvelopePart``."""

# ruff: noqa: S608  # statements are put together from constants of this module; values are always parameters

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.keystore.errors import KeyStoreFullError
from keypost.keystore.values import Totals, WaitingEnvelope
from keypost.protocol.encoding import sha256

if TYPE_CHECKING:
    from keypost.keystore.database import Database, Row

BOUND = "list, digest, accept_time, receive_time, reason, username, sealed_to"
COLUMNS = f"sequence, envelope, came, {BOUND}"


class SqliteEnvelopes:
    """``EnvelopePart`` in SQLite: one of the two lists.

    Args:
        database: The database.
        name: ``waiting`` or ``set_aside``.
        limit: How much the list takes.
        of_one_user: How much of it the envelopes of one sending user may take.
        make_room: Whether the oldest make room in a full list; otherwise it refuses.
    """

    def __init__(self, database: Database, name: str, limit: Totals, of_one_user: Totals, *, make_room: bool) -> None:
        self._database = database
        self._name = name
        self._limit = limit
        self._of_one_user = of_one_user
        self._make_room = make_room

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
        while not _has_room(self._totals(username), self._of_one_user, size):
            self._make_room_of(username)
        while not _has_room(self._totals(), self._limit, size):
            self._make_room_of(self._greediest())

    def _make_room_of(self, username: str) -> None:
        if not self._make_room:
            raise KeyStoreFullError(
                "too many envelopes wait for newer records; nothing more is taken until some are settled",
                list=self._name,
            )
        self._database.run(
            "DELETE FROM envelopes WHERE sequence ="
            " (SELECT min(sequence) FROM envelopes WHERE list = ? AND username = ?)",
            self._name,
            username,
        )
        self._database.run(
            "INSERT INTO dropped VALUES (?, 1) ON CONFLICT (list) DO UPDATE SET count = count + 1", self._name
        )

    def _greediest(self) -> str:
        row = self._database.one(
            "SELECT username FROM envelopes WHERE list = ? GROUP BY username"
            " ORDER BY total(size) DESC, min(sequence) LIMIT 1",
            self._name,
        )
        return "" if row is None else str(row[0])

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


def _moved(came: int) -> tuple[int, ...]:
    """Return what binds a row that came from another list to when it first came."""
    return (came,) if came else ()


def _has_room(taken: Totals, limit: Totals, size: int) -> bool:
    return taken.count < limit.count and taken.size + size <= limit.size
