"""The one way by which a record enters a service: verified, wherever it comes from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from keypost.protocol.errors import UnknownRecordKeyError
from keypost.protocol.key_info import read_key_info

if TYPE_CHECKING:
    from keypost.keys.v1 import key_info_pb2
    from keypost.protocol.key_info import KeyRecord
    from keypost_services.runtime.realm_trust import Trust

SMALL_BYTES = 4_096
"""Some four keys: half a millisecond of signatures."""


async def read_record(key_info: key_info_pb2.KeyInfo, *, trust: Trust, username: str, now: int) -> KeyRecord:
    """Return the verified record in ``key_info``.

    A record key that is unknown makes the realm's trust be fetched anew, once. A record may have a thousand signatures
    to verify, so that happens in a thread: others' calls go on meanwhile. Of a small one it takes no longer than a
    thread does to begin and to be heard of.

    Raises:
        SourceAwayError: the realm's trust is not known.
        ProtocolError: what :func:`keypost.protocol.key_info.read_key_info` raises.
    """
    try:
        return await _read(key_info, trust=trust.current(), username=username, now=now)
    except UnknownRecordKeyError:
        await trust.refresh()
    return await _read(key_info, trust=trust.current(), username=username, now=now)


async def _read(key_info: key_info_pb2.KeyInfo, **rest: Any) -> KeyRecord:
    if key_info.ByteSize() <= SMALL_BYTES:
        return read_key_info(key_info, **rest)
    return await asyncio.to_thread(read_key_info, key_info, **rest)
