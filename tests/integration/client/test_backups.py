"""A backup restored beside its original, and beside a thief's copy, against the three services."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from keypost import Client, Passphrase, restore_profile
from keypost.protocol.errors import DeviceKeyStolenError
from keypost.transport.retries import Backoff, Retries

if TYPE_CHECKING:
    from pathlib import Path

    from keypost_services.embedded.stack import Stack

LONG = 60
BACKUP = Passphrase("of the backup")
QUICK = Retries(backoff=Backoff(first=0.01, longest=0.1))


async def restored(file: Path, folder: Path, **options: Any) -> Client:
    await asyncio.to_thread(restore_profile, file, folder, passphrase=BACKUP, unlock=BACKUP)
    return await Client.open(folder, unlock=BACKUP, retries=QUICK, **options)


async def texts(client: Client) -> list[str]:
    return [message.text async for message in client.receive(follow=False)]


async def test_side_by_side_one_stops_and_nothing_is_lost_or_comes_twice(enrolled: Any, tmp_path: Path) -> None:
    async with asyncio.timeout(LONG):
        amy, old = await enrolled("amy"), await enrolled("bea", retries=QUICK)
        file = tmp_path / "bea.backup"
        await old.backup(file, BACKUP)
        for number in range(5):
            await amy.send("bea", f"before {number}")
        stream = old.receive()
        assert [(await anext(stream)).text for _ in range(5)] == [f"before {number}" for number in range(5)]
        listening = asyncio.ensure_future(anext(stream))
        await old.send("amy", "under a counter that the backup does not know")
        new = await restored(file, tmp_path / "new")
        async with new:
            for number in range(5):
                await amy.send("bea", f"after {number}")
            late, found = await texts_until_stopped(listening, stream), await texts(new)
            assert sorted({*late, *found}) == [f"after {number}" for number in range(5)]
            assert (len(late), len(found)) == (len({*late}), len({*found}))
            sent = await new.send("amy", "from the new one")
            assert sent.counter > 2**32
        messages = [message async for message in amy.receive(follow=False)]
        assert [message.text for message in messages] == [
            "under a counter that the backup does not know",
            "from the new one",
        ]
        assert [message.missed for message in messages] == [0, 0]


async def texts_until_stopped(listening: asyncio.Future[Any], stream: Any) -> list[str]:
    """Return what the old copy still gets: until its key event has come, it is the device."""
    found: list[str] = []
    while True:
        try:
            found.append((await listening).text)
        except DeviceKeyStolenError:
            return found
        listening = asyncio.ensure_future(anext(stream))


async def test_who_steals_a_backup_is_seen_by_the_owner(enrolled: Any, tmp_path: Path) -> None:
    async with asyncio.timeout(LONG):
        owner = await enrolled("cid", retries=QUICK)
        await owner.backup(tmp_path / "cid.backup", BACKUP)
        async with await restored(tmp_path / "cid.backup", tmp_path / "thief"):
            with pytest.raises(DeviceKeyStolenError, match="unless you restored its backup elsewhere"):
                await owner.keys("cid")
            with pytest.raises(DeviceKeyStolenError):
                await texts(owner)


async def test_a_kept_backup_moves_unread_mail_to_new_hardware(enrolled: Any, tmp_path: Path, stack: Stack) -> None:
    async with asyncio.timeout(LONG):
        dot, eve = await enrolled("dot"), await enrolled("eve")
        await eve.set_backup(tmp_path / "eve.backup", BACKUP)
        await dot.send("eve", "sealed to the first key")
        await eve.renew()
        await dot.send("eve", "sealed to the second")
        await eve.close()
        async with await restored(tmp_path / "eve.backup", tmp_path / "new", bundle=stack.layout.bundle) as new:
            assert await texts(new) == ["sealed to the first key", "sealed to the second"]
            await new.send("dot", "an answer")
            assert await texts(dot) == ["an answer"]
