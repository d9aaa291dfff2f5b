"""Records in Redis (the cache role), shared by all replicas. Nothing that comes out of it is believed unverified.

A value is a prefix of 40 digits, the record's revision and this_update, and the serialised KeyInfo. A prefix alone is a
floor: it keeps a slow reader from writing an older record back. Every key has a lifetime.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from keypost.errors import KeypostError
from keypost.keys.v1 import key_info_pb2
from keypost.protocol.encoding import parse
from keypost.protocol.errors import MalformedStatementError
from keypost_services.directory.look_up.ports import StoreAwayError
from keypost_services.runtime.errors import SourceAwayError
from keypost_services.runtime.gathering import Gathering

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from redis.asyncio import Redis

    from keypost.clock import Clock
    from keypost.protocol.key_info import KeyRecord
    from keypost_services.directory.look_up.verifier import Verifier

PREFIX_DIGITS = 40
MOST_BYTES = 1_048_576
MOST_AT_ONCE = 64
MOST_TOGETHER = 32
"""So many look-ups of single users are one question: a user may have a megabyte."""
SCAN_COUNT = 1_000
MOST_SEQUENCE = 2**53  # as far as Lua counts exactly
MOST_SEQUENCE_DIGITS = 16
# Sets the value if its prefix is higher than the one kept; what is no prefix, or no string, does not count.
KEEP_NEWER = """
local kept = redis.call('MGET', KEYS[1])[1] or ''
kept = string.sub(kept, 1, 40)
if #kept == 40 and string.match(kept, '^%d+$') and kept >= string.sub(ARGV[1], 1, 40) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
# Deletes the value if it still is the one that was read.
DELETE_SAME = "if redis.call('MGET', KEYS[1])[1] == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
# Sets the number if it is higher than the one kept; refreshes its lifetime.
ADVANCE = """
local kept = tonumber(redis.call('MGET', KEYS[1])[1] or '-1')
if not (kept and kept >= 0 and kept <= 9007199254740992) then kept = -1 end
redis.call('SET', KEYS[1], string.format('%.0f', math.max(kept, tonumber(ARGV[1]))), 'PX', ARGV[2])
"""


class RedisStore:
    """A RecordStore, and the Position of the watch, in Redis.

    Args:
        redis: A client that does not decode answers.
        verifier: Verifies what comes out.
        clock: Unix milliseconds.
        realm: Part of every key.
        timeout_ms: How long to wait for an answer.
    """

    def __init__(self, redis: Redis, verifier: Verifier, clock: Clock, *, realm: str, timeout_ms: int) -> None:
        self._redis = redis
        self._verifier = verifier
        self._clock = clock
        self._keys = f"kd:{realm}:"
        self._timeout_ms = timeout_ms
        self._at_once = asyncio.Semaphore(MOST_AT_ONCE)
        self._single: Gathering[str, Any] = Gathering(self._values, most=MOST_TOGETHER, away=(StoreAwayError,))

    async def get_many(self, usernames: Sequence[str]) -> Mapping[str, KeyRecord]:
        """Return the records of these users that verify; drop and count what does not."""
        values = [await self._single.ask(usernames[0])] if len(usernames) == 1 else await self._values(usernames)
        records = {}
        for username, value in zip(usernames, values, strict=True):
            if value is not None and len(value) != PREFIX_DIGITS:
                record = await self._read(username, value)
                if record is not None:
                    records[username] = record
                if len(usernames) > 1:
                    # A batch of a hundred must not hold up everybody else.
                    await asyncio.sleep(0)
        return records

    async def _values(self, usernames: Sequence[str]) -> list[Any]:
        """Return what is kept of these users, unverified; in one question."""
        async with self._call():
            values: list[Any] = await self._redis.mget([self._key(username) for username in usernames])
        return values

    async def put_many(self, records: Sequence[KeyRecord]) -> None:
        """Keep these records until their next_update, where they are newer."""
        now = self._clock()
        await self._keep_newer(
            {
                self._key(record.username): (_value(record), record.next_update - now)
                for record in records
                if record.next_update > now and record.key_info.ByteSize() <= MOST_BYTES
            }
        )

    async def drop_many(self, floors: Mapping[str, int]) -> None:
        """Put the floor in the place of records below it, for as long as such a record could be fresh."""
        lifetime = self._verifier.longest_lifetime()
        await self._keep_newer({self._key(name): (_prefix(floor, 0), lifetime) for name, floor in floors.items()})

    async def drop_all(self) -> None:
        """Delete all keys of the realm, the position too."""
        keys: list[Any] = []
        cursor = -1
        while cursor != 0:
            async with self._call():
                cursor, keys = await self._redis.scan(max(cursor, 0), match=f"{self._keys}*", count=SCAN_COUNT)
                if keys:
                    await self._redis.unlink(*keys)

    async def read(self) -> int | None:
        """Return the sequence up to which the records in Redis are right."""
        async with self._call():
            # Of a value of another type MGET says that there is none, where GET fails.
            values: list[Any] = await self._redis.mget([f"{self._keys}sequence"])
        return _sequence(values[0])

    async def advance(self, sequence: int) -> None:
        """Note that all events up to ``sequence`` were acted upon."""
        async with self._call():
            await self._redis.eval(
                ADVANCE, 1, f"{self._keys}sequence", str(sequence), str(self._verifier.longest_lifetime())
            )

    async def _read(self, username: str, value: bytes) -> KeyRecord | None:
        try:
            serialised = value[PREFIX_DIGITS:]
            key_info = parse(key_info_pb2.KeyInfo, serialised, "KeyInfo")
            record = await self._verifier.read_again(key_info, serialised, username=username)
            _check_prefix(value, record)
        except SourceAwayError:
            return None
        except KeypostError as error:
            self._verifier.refused(error, username=username, source="redis")
            await self._delete(username, value)
            return None
        return record

    async def _delete(self, username: str, value: bytes) -> None:
        with contextlib.suppress(StoreAwayError):
            async with self._call():
                await self._redis.eval(DELETE_SAME, 1, self._key(username), value)

    async def _keep_newer(self, values: Mapping[str, tuple[bytes, int]]) -> None:
        if not values:
            return
        async with self._call(), self._redis.pipeline(transaction=False) as pipeline:
            for key, (value, lifetime) in values.items():
                pipeline.eval(KEEP_NEWER, 1, key, value, str(lifetime))
            await pipeline.execute()

    @contextlib.asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_ms / 1000), self._at_once:
                yield
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreAwayError(f"Redis: {type(error).__name__}") from error

    def _key(self, username: str) -> str:
        return f"{self._keys}r:{username}"


def _prefix(revision: int, this_update: int) -> bytes:
    return b"%020d%020d" % (revision, this_update)


def _check_prefix(value: bytes, record: KeyRecord) -> None:
    # One that is higher than the record's would keep every newer record out.
    if value[:PREFIX_DIGITS] != _prefix(record.revision, record.this_update):
        raise MalformedStatementError("the prefix is not the record's")


def _sequence(value: bytes | None) -> int | None:
    """Return the sequence that is written in a value, or None if none is: Redis may hold anything."""
    if value is None or not value.isdigit() or len(value) > MOST_SEQUENCE_DIGITS:
        return None
    sequence = int(value)
    return sequence if sequence <= MOST_SEQUENCE else None


def _value(record: KeyRecord) -> bytes:
    return _prefix(record.revision, record.this_update) + record.key_info.SerializeToString()
