"""Counters of messages and the marks against replays: the rows behind ``CounterPart``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.errors import InvalidArgumentError
from keypost.keystore.database import conversation_text, ensure_conversation
from keypost.keystore.errors import KeyStoreConflictError
from keypost.keystore.values import Conversation, ReceivedMark

if TYPE_CHECKING:
    from keypost.keystore.database import Database
    from keypost.protocol.identifiers import Address


COUNT = 2**32
"""What is between the counts of a device: it begins a new one when it is restored (docs/spec.md, "Backups")."""


def count_of(counter: int) -> int:
    """Return how often the device that uses this counter was restored before."""
    return counter // COUNT


def _missed_between(highest: int, counter: int) -> int:
    """Return how many messages between the highest counter seen and a later one are known to be missing.

    Of a new count these are all before it. How far the one before went on, nobody knows.
    """
    if counter <= highest:
        return 0
    begin = highest if count_of(highest) == count_of(counter) else count_of(counter) * COUNT
    return max(0, counter - begin - 1)


class SqliteCounters:
    """``CounterPart`` in SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def next_send(self, conversation: Conversation) -> int:
        """Take the next counter of this device in a conversation, from 1."""
        with self._database.transaction():
            text = ensure_conversation(self._database, conversation)
            self._database.run(
                "UPDATE conversations SET last_counter = max(last_counter, (SELECT total(base) FROM counting)) + 1"
                " WHERE conversation = ?",
                text,
            )
            return self._database.number("SELECT last_counter FROM conversations WHERE conversation = ?", text)

    def begin_count(self) -> None:
        """Begin a new count, above every counter that any copy of this store can have used."""
        with self._database.transaction():
            highest = self._database.number(
                "SELECT max(counter) FROM (SELECT max(last_counter) AS counter FROM conversations"
                " UNION ALL SELECT base FROM counting)"
            )
            self._database.run("INSERT OR REPLACE INTO counting VALUES (1, ?)", (count_of(highest) + 1) * COUNT)

    def is_received(self, sender: Address, message_id: bytes) -> bool:
        """Return whether that message was opened before."""
        row = self._database.one("SELECT 1 FROM received WHERE sender = ? AND message_id = ?", str(sender), message_id)
        return row is not None

    def mark_received(
        self, sender: Address, conversation: Conversation, counter: int, message_id: bytes, now: int
    ) -> ReceivedMark:
        """Mark a message as received."""
        if counter < 1:
            raise InvalidArgumentError("counters of messages begin at 1", field="counter")
        text, device = conversation_text(conversation), str(sender)
        with self._database.transaction():
            if self.is_received(sender, message_id):
                raise KeyStoreConflictError("this message is marked as received already")
            clone = self._same_counter(device, text, counter)
            self._database.run("INSERT INTO received VALUES (?, ?, ?, ?, ?)", device, message_id, text, counter, now)
            previous, missed = self._move(device, text, counter, cloned=clone is not None)
        return ReceivedMark(previous, missed, clone)

    def _same_counter(self, device: str, conversation: str, counter: int) -> bytes | None:
        """Return the id of a message that came with the same counter."""
        row = self._database.one(
            "SELECT message_id FROM received WHERE sender = ? AND conversation = ? AND counter = ?",
            device,
            conversation,
            counter,
        )
        return None if row is None else row[0]

    def _move(self, device: str, conversation: str, counter: int, *, cloned: bool) -> tuple[int, int]:
        row = self._database.one(
            "SELECT first, highest, missed FROM received_counters WHERE sender = ? AND conversation = ?",
            device,
            conversation,
        )
        if row is None:
            self._put(device, conversation, counter, counter, 0)
            return 0, _missed_between(0, counter)
        first, highest, missed = row
        gap = _missed_between(highest, counter)
        # What was missing in an earlier count was perhaps never counted.
        came_late = first < counter < highest and count_of(counter) == count_of(highest) and not cloned
        self._put(device, conversation, first, max(highest, counter), max(0, missed + gap - came_late))
        return highest, gap

    def _put(self, device: str, conversation: str, *numbers: int) -> None:
        self._database.run(
            "INSERT OR REPLACE INTO received_counters VALUES (?, ?, ?, ?, ?)", device, conversation, *numbers
        )

    def missed(self, sender: Address, conversation: Conversation) -> int:
        """Return how many messages of that device have not come, since the first that did."""
        return self._database.number(
            "SELECT missed FROM received_counters WHERE sender = ? AND conversation = ?",
            str(sender),
            conversation_text(conversation),
        )
