"""After the database was restored from a backup: nothing that was ended since may come to life again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.keys.v1 import key_info_pb2 as pb
from keypost_services.ca.audit import BEGINNING, OPERATOR
from keypost_services.ca.database import open_store
from keypost_services.ca.redo import redo
from keypost_services.ca.store import Change, EventDraft

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from keypost_services.ca.audit import AuditEntry, Head
    from keypost_services.ca.store import UserSummary
    from keypost_services.ca.store_sql import SqlStore

PAGE = 256


@dataclass(frozen=True)
class AfterRestore:
    """What was done.

    Attributes:
        entries_redone: Entries of the audit log that the database lacked.
        newest_entry_time: When the newest entry was made that there is now; 0: there is none. What was changed later is
            lost.
        codes_ended: One-time codes that are good no longer.
        resets_cancelled: Identity resets that were announced.
        head: The head of the audit log.
    """

    entries_redone: int
    newest_entry_time: int
    codes_ended: int
    resets_cancelled: int
    head: str


async def after_restore(
    database: str, entries: Sequence[AuditEntry], now: int, noted: Head = BEGINNING, issuer: str = ""
) -> AfterRestore:
    """Make again what a restored database lacks, then end what may have ended since.

    Args:
        database: Its URL; no CA serves from it.
        entries: Entries of the audit log that were kept elsewhere, in order; none if none were.
        now: Unix milliseconds.
        noted: A head that was noted elsewhere: they must have it.
        issuer: The URL of the issuer at which users signed in; empty if there is none.

    Raises:
        StartError: The database cannot be opened, or a CA serves from it.
        AuditBrokenError: The entries are not this log's.
        IssuerMissingError: They tell of an issuer.
    """
    async with open_store(database, alone=True) as store:
        redone = await redo(store, entries, noted, issuer)
        newest = await _newest_time(store)
        cancelled = 0
        async for user in _users(store):
            if user.reset_time:
                await store.apply(_cancellation(user, max(now, newest)))
                cancelled += 1
        codes = await store.after_restore()
        return AfterRestore(redone, newest, codes, cancelled, str(await store.audit_head()))


async def _users(store: SqlStore) -> AsyncIterator[UserSummary]:
    last = ""
    while page := await store.list_users(last, PAGE):
        for user in page:
            yield user
        last = page[-1].username


async def _newest_time(store: SqlStore) -> int:
    head = await store.audit_head()
    return max((entry.act.create_time for entry in await store.list_audit_entries(head.sequence - 1, 1)), default=0)


def _cancellation(user: UserSummary, now: int) -> Change:
    # Whoever announced it may have been stopped by the user since; who is honest announces it again.
    return Change(
        username=user.username,
        epoch=user.epoch,
        revision=user.revision + 1,
        time=now,
        actor=OPERATOR,
        events=(EventDraft(pb.KEY_EVENT_KIND_RESET_CANCELLED),),
    )
