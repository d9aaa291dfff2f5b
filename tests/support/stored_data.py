"""What people wrote in the stored data of the previous version, and what unlocks it."""

from __future__ import annotations

import hashlib

from keypost.keystore.unlock import Argon2Cost, Passphrase

BACKUP = Passphrase("of the backup", Argon2Cost(memory=64, iterations=1, lanes=1))
FILE_NAME = "plan.bin"
FILE = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(64))
"""2 KiB that do not compress."""


class Texts:
    """Texts by the state that their messages were left in.

    Attributes:
        WAITING: In Carol's mailbox, in this order, a file after them. The first is of Alice, the others of Bob.
        NOT_YET: With Dave, who could not ask for the sender.
        ANSWER_LOST: Of Alice's tablet to Carol, in the mailbox, and in the outbox too.
        UNACKNOWLEDGED: Of Alice, in Bob's inbox, and in the mailbox too.
        HANDLED: How many of those are handled; the next one was handed out.
        UNSENT: Of Alice to Bob, in the outbox alone.
    """

    WAITING = ("sealed to a key that was renewed", "first of Bob", "second of Bob")
    NOT_YET = "nobody knew who had written it"
    ANSWER_LOST = "stored, and nobody said so"
    UNACKNOWLEDGED = ("handled", "handed out", "not handed out", "not handed out either")
    HANDLED = 1
    UNSENT = "never left"
