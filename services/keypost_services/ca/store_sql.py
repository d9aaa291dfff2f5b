"""The store in an SQL database: only what SQLite and PostgreSQL understand alike."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client import CollectorRegistry
from sqlalchemy import and_, case, func, insert, or_, select, text, update
from sqlalchemy.exc import IntegrityError

from keypost.keys.v1 import key_info_pb2 as pb
from keypost_services.ca.acts import acts_of
from keypost_services.ca.engine import WRITES
from keypost_services.ca.engine_postgres import ANSWER_SECONDS
from keypost_services.ca.metrics import Metrics
from keypost_services.ca.store import (
    ENDED,
    EVERYTHING,
    AuditFilter,
    Change,
    CodeFilter,
    CodeUsedError,
    DrawnCode,
    Ending,
    Event,
    Identity,
    IdentityTakenError,
    InstalledTrust,
    KeyAlreadyKnownError,
    OneTimeCode,
    RecordedKey,
    RevisionTakenError,
    StoreAwayError,
    User,
    UserSummary,
)
from keypost_services.ca.store_audit import (
    NEWEST,
    append_acts,
    append_trust,
    contradicting,
    entered,
    entries_after,
    entry_of,
    head_of,
)
from keypost_services.ca.store_codes import codes_after, drawn_code_of, end_codes, not_ended
from keypost_services.ca.store_failures import TransactionGivenUpError, failures_named
from keypost_services.ca.tables import (
    EVENT_COUNTER,
    counters,
    device_keys,
    identities,
    key_events,
    one_time_codes,
    secrets,
    users,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from prometheus_client import Histogram
    from sqlalchemy import ColumnElement, RowMapping, Select, Table
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from keypost_services.ca.audit import Act, AuditEntry, Head

R = TypeVar("R")

_WRITERS = 4
"""How many transactions of one process may be under way that write to a shared database."""
_MOST_ATTEMPTS = 3
LEAP = 1_000_000_000
"""More events than a database that was restored can lack."""


class SqlStore:
    """A ``Store`` on SQLAlchemy Core.

    Writers of one process queue here: they would queue at the row of the event counter anyway, and keep connections
    from those who read. Writers of several processes meet at that row alone, which is taken last: no two of them hold
    what the other one waits for.

    Args:
        engine: The database.
        metrics: Measures it, where anybody reads that.
    """

    def __init__(self, engine: AsyncEngine, metrics: Metrics | None = None) -> None:
        self._engine = engine
        self._metrics = metrics or Metrics(CollectorRegistry())
        shared = engine.dialect.name == "postgresql"
        # One statement needs no transaction around it.
        self._reading_engine = engine.execution_options(isolation_level="AUTOCOMMIT") if shared else engine
        self._writing_engine = engine.execution_options(**{WRITES: True})
        self._writers = asyncio.Semaphore(_WRITERS if shared else 1)
        self._seconds = ANSWER_SECONDS if shared else None

    async def find_users(self, usernames: Sequence[str]) -> Mapping[str, User]:
        """Return those of the users that exist; one query, so that revision and keys are of one moment."""
        query = (
            select(*_USER, *_prefixed(device_keys))
            .join(device_keys, device_keys.c.username == users.c.username)
            .where(users.c.username.in_(usernames))
            .order_by(device_keys.c.revision)
        )
        return _users_of(await self._all(query))

    async def count_ending(self, from_time: int, until_time: int) -> int:
        """Return how many good keys end from one time on and before another."""
        row = await self._first(good_keys_ending(from_time, until_time))
        return 0 if row is None else int(row["keys"])

    async def find_key(self, fingerprint: bytes) -> RecordedKey | None:
        """Return the key with this fingerprint."""
        query = select(device_keys).where(device_keys.c.fingerprint == fingerprint)
        row = await self._first(query)
        return None if row is None else RecordedKey(**row)

    async def apply(self, change: Change, expected: Sequence[AuditEntry] = ()) -> Sequence[AuditEntry]:
        """Apply a change whole, or not at all; return its entries in the audit log."""

        async def transaction(connection: AsyncConnection) -> Sequence[AuditEntry]:
            await _step_user(connection, change)
            if change.key is not None:
                await _insert_key(connection, change.key)
            await _end_keys(connection, change)
            await _use_code(connection, change)
            await _keep_identity(connection, change)
            acts = acts_of(change, await _devices_of(connection, change))
            # Last: the row of the counter is what every other writer waits for.
            await _append_events(connection, change)
            return await append_acts(connection, acts, expected)

        return await self._write(transaction)

    async def list_users(self, after_username: str, limit: int) -> Sequence[UserSummary]:
        """Return users in the order of their names."""
        # Counted for the users of the page alone: a join would group all that come after.
        good = (
            select(func.count())
            .where(device_keys.c.username == users.c.username, device_keys.c.state == pb.KEY_STATE_GOOD)
            .scalar_subquery()
            .label("good_keys")
        )
        query = select(*_USER, good).where(users.c.username > after_username).order_by(users.c.username).limit(limit)
        return [UserSummary(**row) for row in await self._all(query)]

    async def add_code(self, code: OneTimeCode, act: Act, expected: Sequence[AuditEntry] = ()) -> Sequence[AuditEntry]:
        """Keep a new one-time code; return its entry in the audit log."""

        async def transaction(connection: AsyncConnection) -> Sequence[AuditEntry]:
            await connection.execute(insert(one_time_codes).values(asdict(code)))
            await _take_numbers(connection, 0)
            return await append_acts(connection, [act], expected)

        return await self._write(transaction)

    async def list_codes(self, wanted: CodeFilter, limit: int, after: OneTimeCode | None = None) -> Sequence[DrawnCode]:
        """Return one-time codes in order."""
        return [drawn_code_of(row) for row in await self._all(codes_after(after, limit, wanted))]

    async def withdraw_codes(
        self, act: Act, code_id: bytes = b"", expected: Sequence[AuditEntry] = ()
    ) -> Sequence[AuditEntry]:
        """End one-time codes of a user that are open; return their entries in the audit log."""
        wanted = CodeFilter(act.username, code_id, act.create_time)

        async def transaction(connection: AsyncConnection) -> Sequence[AuditEntry]:
            ended = await end_codes(connection, wanted)
            # A code that was made again is ended before: nobody knows until when it was good.
            hashes = [entry.act.evidence for entry in expected] or ended
            if not hashes:
                return ()
            await _take_numbers(connection, 0)
            return await append_acts(connection, [replace(act, evidence=one) for one in hashes], expected)

        return await self._write(transaction)

    async def enter_trust(self, installed: InstalledTrust, expected: Sequence[AuditEntry] = ()) -> Sequence[AuditEntry]:
        """Enter in the audit log that a trust statement was taken up, once; return its entries."""
        # Whoever starts again has nothing to enter, and need not wait for those who write.
        if not expected and await self._first(entered(installed)) is not None:
            return ()

        async def transaction(connection: AsyncConnection) -> Sequence[AuditEntry]:
            await _take_numbers(connection, 0)
            return await append_trust(connection, installed, expected)

        return await self._write(transaction)

    async def find_contradicting_trust(self, sequence: int, statement_hash: bytes) -> AuditEntry | None:
        """Return the entry of a trust statement that contradicts this one."""
        row = await self._first(contradicting(sequence, statement_hash))
        return None if row is None else entry_of(row)

    async def find_code(self, code_hash: bytes) -> OneTimeCode | None:
        """Return the code with this hash."""
        row = await self._first(select(one_time_codes).where(one_time_codes.c.code_hash == code_hash))
        return None if row is None else OneTimeCode(**row)

    async def find_identities(self, identity: Identity) -> Sequence[Identity]:
        """Return those kept that share the user, or issuer and subject, with this one."""
        return [Identity(**row) for row in await self._all(_identities_like(identity))]

    async def list_events(self, after_sequence: int, limit: int) -> Sequence[Event]:
        """Return the events after a number, in order."""
        query = (
            select(key_events)
            .where(key_events.c.sequence > after_sequence)
            .order_by(key_events.c.sequence)
            .limit(limit)
        )
        return [Event(**row) for row in await self._all(query)]

    async def newest_sequence(self) -> int:
        """Return the number of the newest event."""
        row = await self._first(select(counters.c.value).where(counters.c.name == EVENT_COUNTER))
        return 0 if row is None else int(row["value"])

    async def list_audit_entries(
        self, after_sequence: int, limit: int, wanted: AuditFilter = EVERYTHING
    ) -> Sequence[AuditEntry]:
        """Return the entries of the audit log after a number, in order."""
        return [entry_of(row) for row in await self._all(entries_after(after_sequence, limit, wanted))]

    async def audit_head(self) -> Head:
        """Return the newest entry of the audit log."""
        return head_of(await self._first(NEWEST))

    async def keep_secret(self, name: str, proposal: bytes) -> bytes:
        """Return the secret of that name, keeping the proposal if there was none."""

        async def transaction(connection: AsyncConnection) -> None:
            await connection.execute(insert(secrets).values(name=name, value=proposal))

        try:
            await self._write(transaction)
        except IntegrityError:
            row = await self._first(select(secrets.c.value).where(secrets.c.name == name))
            return proposal if row is None else bytes(row["value"])
        return proposal

    async def after_restore(self) -> int:
        """End what may have been used up since the backup that this database was restored from; return how many.

        Those are the one-time codes, all that are unused: whether one is over is not judged by the clock here. The
        numbers of events go on far behind all that were ever given out: whoever watches begins anew.
        """

        async def transaction(connection: AsyncConnection) -> int:
            ended = await connection.execute(update(one_time_codes).where(not_ended()).values(expire_time=ENDED))
            await _take_numbers(connection, LEAP)
            return ended.rowcount

        return await self._write(transaction)

    async def _all(self, query: Select[Any]) -> Sequence[RowMapping]:
        with self._measured(self._metrics.reads):
            async with failures_named(self._seconds), self._reading_engine.connect() as connection:
                found: Sequence[RowMapping] = (await connection.execute(query)).mappings().all()
        return found

    async def _first(self, query: Select[Any]) -> RowMapping | None:
        return next(iter(await self._all(query)), None)

    async def _write(self, transaction: Callable[[AsyncConnection], Awaitable[R]]) -> R:
        """Carry out a transaction; again if the database gave it up for another one's sake."""
        for _ in range(_MOST_ATTEMPTS - 1):
            with contextlib.suppress(TransactionGivenUpError):
                return await self._write_once(transaction)
        return await self._write_once(transaction)

    async def _write_once(self, transaction: Callable[[AsyncConnection], Awaitable[R]]) -> R:
        with self._measured(self._metrics.writes):
            async with failures_named(self._seconds), self._writers, self._writing_engine.begin() as connection:
                return await transaction(connection)

    @contextlib.contextmanager
    def _measured(self, seconds: Histogram) -> Iterator[None]:
        try:
            with seconds.time():
                yield
        except TransactionGivenUpError:
            raise
        except StoreAwayError:
            self._metrics.database_errors.inc()
            raise


def good_keys_ending(from_time: int, until_time: int) -> Select[Any]:
    """Return the question how many good keys end from one time on and before another, Unix milliseconds."""
    ending = device_keys.c.expire_time
    # Written out as in the index: with a parameter in its place the index would not be used.
    good = text("state = 1")
    query = select(func.count().label("keys")).select_from(device_keys)
    return query.where(good, ending >= from_time, ending < until_time)


async def _step_user(connection: AsyncConnection, change: Change) -> None:
    """Set the user to the change's revision if they are at the one before it; locks the user's row."""
    values = {"epoch": change.epoch, "revision": change.revision, "reset_time": change.reset_time}
    if change.revision == 1:
        row = {"username": change.username, "create_time": change.time, **values}
        try:
            await connection.execute(insert(users).values(row))
        except IntegrityError as error:
            raise RevisionTakenError from error
        return
    step = (
        update(users)
        .where(users.c.username == change.username, users.c.revision == change.revision - 1)
        .values(**values)
    )
    if (await connection.execute(step)).rowcount != 1:
        raise RevisionTakenError


async def _insert_key(connection: AsyncConnection, key: RecordedKey) -> None:
    try:
        await connection.execute(insert(device_keys).values(asdict(key)))
    except IntegrityError as error:
        raise KeyAlreadyKnownError from error


async def _end_keys(connection: AsyncConnection, change: Change) -> None:
    for ending in change.endings:
        step = (
            update(device_keys)
            .where(
                device_keys.c.fingerprint == ending.fingerprint,
                device_keys.c.username == change.username,
                _may_end(ending),
            )
            .values(state=ending.state, reason=ending.reason, state_time=_ended_since(ending, change.time))
        )
        # The revision was compared above: a key that has ended here was never seen otherwise at that revision.
        if (await connection.execute(step)).rowcount != 1:
            raise RevisionTakenError


def _may_end(ending: Ending) -> ColumnElement[bool]:
    """Return whether a key is in a state that this may follow."""
    # States are numbered in the one order in which a key passes through them; last, it can turn out to be compromised.
    compromised = ending.reason == pb.REVOCATION_REASON_COMPROMISED
    return device_keys.c.state <= ending.state if compromised else device_keys.c.state < ending.state


def _ended_since(ending: Ending, now: int) -> ColumnElement[int]:
    """Return since when an ending key has ended: never later than it was said to have."""
    since = now if ending.since is None else ending.since
    said = device_keys.c.state_time
    # Without a time of its own, a key that had ended stays ended since when it was.
    earlier = said if ending.since is None else case((said < since, said), else_=since)
    return case((device_keys.c.state == pb.KEY_STATE_GOOD, since), else_=earlier)


async def _use_code(connection: AsyncConnection, change: Change) -> None:
    if change.code_hash is None or change.key is None:
        return
    step = (
        update(one_time_codes)
        .where(one_time_codes.c.code_hash == change.code_hash, not_ended())
        .values(used_fingerprint=change.key.fingerprint)
    )
    if (await connection.execute(step)).rowcount != 1:
        raise CodeUsedError


async def _keep_identity(connection: AsyncConnection, change: Change) -> None:
    """Keep who signed in, if nobody did before."""
    if change.identity is None:
        return
    found = (await connection.execute(_identities_like(change.identity))).mappings()
    if change.identity in [Identity(**row) for row in found]:
        return
    row = asdict(change.identity) | {"create_time": change.time}
    try:
        await connection.execute(insert(identities).values(row))
    except IntegrityError as error:
        raise IdentityTakenError from error


def _identities_like(identity: Identity) -> Select[Any]:
    same_user = identities.c.username == identity.username
    same_subject = and_(identities.c.issuer == identity.issuer, identities.c.subject == identity.subject)
    return select(*_IDENTITY).where(or_(same_user, same_subject))


async def _append_events(connection: AsyncConnection, change: Change) -> None:
    """Number the events under the lock of the counter's row: commit order is number order, without gaps."""
    count = len(change.events)
    newest = await _take_numbers(connection, count)
    rows = [
        asdict(draft)
        | {
            "sequence": newest - count + number,
            "username": change.username,
            "revision": change.revision,
            "create_time": change.time,
        }
        for number, draft in enumerate(change.events, start=1)
    ]
    await connection.execute(insert(key_events), rows)


async def _take_numbers(connection: AsyncConnection, count: int) -> int:
    """Raise the event counter and return it; its row is locked until the transaction ends, also for a count of 0."""
    step = update(counters).where(counters.c.name == EVENT_COUNTER).values(value=counters.c.value + count)
    return int((await connection.execute(step.returning(counters.c.value))).scalar_one())


async def _devices_of(connection: AsyncConnection, change: Change) -> Mapping[bytes, str]:
    """Return the devices of the keys that end, by fingerprint."""
    if not change.endings:
        return {}
    ended = device_keys.c.fingerprint.in_([ending.fingerprint for ending in change.endings])
    query = select(device_keys.c.fingerprint, device_keys.c.device_id).where(ended)
    return {row.fingerprint: row.device_id for row in await connection.execute(query)}


_PREFIX = "key_"
_IDENTITY = (identities.c.username, identities.c.issuer, identities.c.subject)
_USER = (users.c.username, users.c.epoch, users.c.revision, users.c.reset_time)


def _prefixed(table: Table) -> list[ColumnElement[Any]]:
    return [column.label(f"{_PREFIX}{column.name}") for column in table.c]


def _users_of(rows: Sequence[RowMapping]) -> Mapping[str, User]:
    keys: dict[str, list[RecordedKey]] = defaultdict(list)
    heads: dict[str, RowMapping] = {}
    for row in rows:
        values = {column.name: row[f"{_PREFIX}{column.name}"] for column in device_keys.c}
        keys[row["username"]].append(RecordedKey(**values))
        heads[row["username"]] = row
    return {
        name: User(keys=tuple(found), **{column.name: heads[name][column.name] for column in _USER})
        for name, found in keys.items()
    }
