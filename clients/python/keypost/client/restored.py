"""The note by which a profile that was restored from a backup knows it (docs/spec.md, "Backups")."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from keypost.keystore.errors import KeyStoreTamperedError

if TYPE_CHECKING:
    from keypost.keystore.port import KeyStore

NOTE = "restored"


class RestoredState(StrEnum):
    """How far a restored profile has come."""

    COPY = "copy"
    """It may not be the only one: it renews its key before it does anything else."""
    MOVED = "moved"
    """It has renewed its key: any other copy has stopped."""
    STALE = "stale"
    """The key in the backup had been replaced: it holds history, and enrols anew to do more."""


@dataclass(frozen=True)
class Restored:
    """What a restored profile knows of itself.

    Attributes:
        state: How far it has come.
        time: When it came there, Unix milliseconds; 0 for a copy.
    """

    state: RestoredState
    time: int = 0


def read(store: KeyStore) -> Restored | None:
    """Return what the profile knows of having been restored; None if it was not.

    Raises:
        KeyStoreTamperedError: the note is none.
    """
    note = store.profile.note(NOTE)
    if note is None:
        return None
    try:
        values = json.loads(note)
        return Restored(RestoredState(values["state"]), int(values["time"]))
    except (ValueError, KeyError, TypeError) as error:
        raise KeyStoreTamperedError("the note on a restoring is damaged; restore a backup") from error


def write(store: KeyStore, restored: Restored) -> None:
    """Note how far a restored profile has come."""
    store.profile.set_note(NOTE, json.dumps({"state": restored.state, "time": restored.time}).encode())


def may_have_created(store: KeyStore, session_create_time: int) -> bool:
    """Return whether another copy of this device may have made a session that this one does not have.

    It may until this one took over: what peers answered under such a session waits in the mailbox that both share.

    Args:
        store: The key store.
        session_create_time: When the session was made.
    """
    restored = read(store)
    return restored is not None and restored.state is RestoredState.MOVED and session_create_time <= restored.time
