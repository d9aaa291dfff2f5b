"""The records that a batch of envelopes needs: each user is looked up once, some at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.client.context import as_keypost_error
from keypost.client.own_watch import says_replaced
from keypost.client.records import RecordBehindError, RecordUnusableError
from keypost.errors import KeypostError, UnreachableError
from keypost.keystore.errors import KeyStoreUnavailableError
from keypost.protocol.errors import DeviceKeyStolenError, ProtocolError
from keypost.protocol.negotiation import step_8_obtain_sender_key_info

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from keypost.client.records import Records
    from keypost.protocol.key_info import KeyRecord

AT_ONCE = 16
"""Look-ups under way."""


@dataclass(frozen=True)
class Answer:
    """What is known of a user now.

    Attributes:
        username: The user.
        record: The record to rely upon, if there is one.
        failure: Why the directory gave none, or none that can be used.
    """

    username: str
    record: KeyRecord | None = None
    failure: KeypostError | None = None

    def check(self, revision: int) -> None:
        """Raise unless the record is there and not behind ``revision``.

        Raises:
            RecordBehindError: the revision is not known yet.
            KeypostError: the directory gave nothing that can be used.
        """
        if self.record is not None and self.record.revision >= revision:
            return
        if self.failure is not None:
            raise self.failure
        raise RecordBehindError(f"revision {revision} of {self.username} is not known yet", username=self.username)


class LookUps:
    """Looks users up for one batch; what cannot be had holds up nobody else's messages.

    Args:
        records: The users' records.
    """

    def __init__(self, records: Records) -> None:
        self._records = records

    async def all(self, wanted: Mapping[str, int], me: str, refresh: Collection[str] = ()) -> Mapping[str, Answer]:
        """Return an answer for every user.

        Args:
            wanted: By username, the highest revision that an envelope relies upon.
            me: The own username; the others are senders (step 8).
            refresh: Whom to ask for whatever is held.

        Raises:
            DeviceKeyStolenError: this device has stopped: what it took in now, nobody would ever see.
            RefusedError: TOKEN_REFUSED with KEY_SUPERSEDED: it probably has to.
        """
        room, away = asyncio.Semaphore(AT_ONCE), asyncio.Event()

        async def one(username: str, revision: int) -> Answer:
            async with room:
                # Once the directory did not answer, the others need not wait for it too.
                ask = not away.is_set()
                answer = await self._one(username, revision, me, ask=ask, refresh=username in refresh)
                if isinstance(answer.failure, UnreachableError):
                    away.set()
                return answer

        answers = await asyncio.gather(*(one(username, revision) for username, revision in wanted.items()))
        return {answer.username: answer for answer in answers}

    async def _one(self, username: str, revision: int, me: str, *, ask: bool, refresh: bool) -> Answer:
        failure: KeypostError = UnreachableError("the directory did not answer just now", service="directory")
        try:
            if ask:
                steps = {} if username == me else {"step": step_8_obtain_sender_key_info}
                record = await self._records.get(username, min_revision=revision, refresh=refresh, **steps)
                return Answer(username, record)
        except KeyStoreUnavailableError:
            raise
        except Exception as error:  # nothing in a message may block the mailbox
            known = as_keypost_error(error)
            if isinstance(known, DeviceKeyStolenError) or says_replaced(known):
                raise
            failure = _to_wait_for(known)
        # One envelope may rely on a revision that never was: the others open by what is held.
        return Answer(username, await self._records.held_fresh(username), failure)


def _to_wait_for(error: KeypostError) -> KeypostError:
    """Return an error that may mend: whatever is wrong with an answer of the directory, another may be right."""
    if isinstance(error, ProtocolError) and not error.not_yet:
        return RecordUnusableError(f"the directory's answer cannot be used: {error}", cause=error.reason)
    return error
