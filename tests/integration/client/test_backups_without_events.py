"""A backup restored beside its original while no key event gets through, between real services."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from keypost import Passphrase, restore_profile
from keypost.protocol.errors import DeviceKeyStolenError
from keypost_services.ca.store_sql import SqlStore
from keypost_services.delivery.key_events import KeyEventEffects
from support.clock import ManualClock
from support.whole import open_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from keypost_services.ca.store import Event

LONG = 200
BACKUP = Passphrase("of the backup")


async def nothing(_store: SqlStore, _after_sequence: int, _limit: int) -> Sequence[Event]:
    """Tell watchers of the CA that it is there, and of nothing that happens."""
    return []


@pytest.mark.parametrize("seen_by", ["the replica that serves the old copy", "another replica"])
async def test_the_old_copy_stops_and_what_is_sealed_to_the_new_one_s_key_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen_by: str
) -> None:
    monkeypatch.setattr(SqlStore, "list_events", nothing)
    if seen_by == "another replica":
        # Whoever takes the message in knows the newer record; whoever pushes it to the old copy does not.
        monkeypatch.setattr(KeyEventEffects, "saw", lambda *_: None)
    told: list[Any] = []
    async with asyncio.timeout(LONG), open_whole(tmp_path, ManualClock()) as whole:
        amy, old = await whole.open("amy"), await whole.open("bea", on_event=told.append)
        await amy.enroll("amy")
        await old.enroll("bea")
        await old.backup(tmp_path / "bea.backup", BACKUP)
        await amy.send("bea", "to the old one")
        stream = old.receive()
        assert (await anext(stream)).text == "to the old one"
        listening = asyncio.ensure_future(anext(stream))
        file, folder = tmp_path / "bea.backup", whole.profile("new")
        await asyncio.to_thread(restore_profile, file, folder, passphrase=BACKUP, unlock=BACKUP)
        new = await whole.open("new", unlock=BACKUP)
        # By its token the directory learns that there is a newer record, and from there whoever asks it.
        assert (await new.keys("bea")).revision == (await amy.keys("bea")).revision == 2
        await amy.send("bea", "to the new one")
        with pytest.raises(DeviceKeyStolenError):
            await listening
        assert [event.reason for event in told if event.kind in {"waiting", "set_aside"}] == []
        assert [message.text async for message in new.receive(follow=False)] == ["to the new one"]
