"""What the previous version left on the disk opens with this one, and nothing that waited in it is lost or doubled."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from keypost import restore_profile
from keypost.clock import HOUR
from keypost.protocol.errors import DeviceKeyStolenError, KeyRevokedError
from keypost_services.embedded.processes import clean_environment
from support import previous
from support.clock import START, ManualClock
from support.stored_data import BACKUP, FILE, FILE_NAME, Texts
from support.whole import CHEAP, Whole, open_whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from keypost import Client, Received

LATER = START + 6 * HOUR
"""When this version starts: the records that clients hold have ended, messages and keys have not."""
LONG = 60


@pytest.fixture
async def whole(tmp_path: Path) -> AsyncIterator[Whole]:
    """The stored data, served by this version."""
    previous.unpack(previous.DATA, tmp_path)
    async with asyncio.timeout(LONG), open_whole(tmp_path, ManualClock(LATER)) as opened:
        yield opened


async def received(client: Client) -> list[Received]:
    return [message async for message in client.receive(follow=False)]


async def texts(client: Client) -> list[str]:
    return [message.text for message in await received(client)]


async def test_what_waited_in_a_mailbox_comes_once_and_in_order(whole: Whole) -> None:
    carol = await whole.open("carol")
    files: list[bytes] = []
    bodies: list[str] = []
    async for message in carol.receive(follow=False):
        if message.file is None:
            bodies.append(message.text)
        else:
            assert message.file.name == FILE_NAME
            files.append(b"".join([chunk async for chunk in message.file.chunks()]))
    assert bodies == [*Texts.WAITING, Texts.ANSWER_LOST]
    assert files == [FILE]
    assert await received(carol) == []


async def test_what_was_not_acknowledged_comes_once_and_marked_if_it_had_been_handed_out(whole: Whole) -> None:
    messages = await received(await whole.open("bob"))
    left = Texts.UNACKNOWLEDGED[Texts.HANDLED :]
    assert [(message.text, message.redelivered) for message in messages] == [
        (text, number == 0) for number, text in enumerate(left)
    ]
    # Behind what comes now there is no second copy.
    assert await received(await whole.open("carol")) != []


async def test_what_was_in_the_outbox_goes_out_before_the_next_message(whole: Whole) -> None:
    sent = await (await whole.open("alice")).send("bob", "after the upgrade")
    messages = await received(await whole.open("bob"))
    assert [message.text for message in messages[-2:]] == [Texts.UNSENT, "after the upgrade"]
    assert [message.missed for message in messages] == [0] * len(messages)
    assert messages[-1].counter == sent.counter == messages[-2].counter + 1


async def test_what_was_stored_without_an_answer_is_not_stored_again(whole: Whole) -> None:
    await (await whole.open("tablet")).send("carol", "after the upgrade")
    of_tablet = [message for message in await received(await whole.open("carol")) if not message.file]
    assert [message.text for message in of_tablet[-2:]] == [Texts.ANSWER_LOST, "after the upgrade"]
    assert [message.text for message in of_tablet].count(Texts.ANSWER_LOST) == 1
    assert [message.missed for message in of_tablet] == [0] * len(of_tablet)


async def test_what_could_not_be_opened_yet_is_opened(whole: Whole) -> None:
    assert await texts(await whole.open("dave")) == [Texts.NOT_YET]


async def test_sessions_pins_and_identities_stand(whole: Whole) -> None:
    bob, carol = await whole.open("bob"), await whole.open("carol")
    assert await bob.is_verified("alice")
    assert not (await bob.send("carol", "under the session of before")).new_session
    assert not (await carol.safety_number("bob")).changed


async def test_keys_renew_and_messages_pass_under_the_new_ones(whole: Whole) -> None:
    alice, bob = await whole.open("alice"), await whole.open("bob")
    before = await alice.keys("alice")
    renewed = await alice.renew()
    after = await alice.keys("alice")
    assert after.revision == before.revision + 1
    assert after.epoch == before.epoch
    await alice.send("bob", "under the new key")
    assert (await texts(bob))[-1] == "under the new key"
    assert await bob.is_verified("alice")
    assert renewed.fingerprint in {key.fingerprint for key in (await bob.keys("alice")).keys}


async def test_a_device_that_was_revoked_stays_revoked(whole: Whole) -> None:
    telephone = await whole.open("telephone")
    with pytest.raises(KeyRevokedError):
        await texts(telephone)


async def test_the_audit_log_goes_on_where_it_was(whole: Whole) -> None:
    before = await verified_head(whole)
    await (await whole.open("alice")).renew()
    after = await verified_head(whole, "--head", before)
    assert int(after.partition(":")[0]) == int(before.partition(":")[0]) + 1


async def verified_head(whole: Whole, *arguments: str) -> str:
    """Return the head of the audit log, as the command that verifies it prints it."""
    command = [*("-m", "keypost_services.ca", "audit", "verify"), "--database", f"sqlite:///{whole.folder / 'ca.db'}"]
    verifying = await asyncio.create_subprocess_exec(
        *previous.python(*command, "--json", *arguments),
        env=clean_environment({}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await verifying.communicate()
    assert verifying.returncode == 0, err.decode()
    return str(json.loads(out)["head"])


@pytest.mark.parametrize("name", ["bob", "carol"])
async def test_a_backup_takes_over(whole: Whole, name: str) -> None:
    old = await whole.open(name)
    file, folder = whole.folder / "backups" / f"{name}.backup", whole.folder / "people" / "restored"
    await asyncio.to_thread(restore_profile, file, folder, passphrase=BACKUP, unlock=CHEAP)
    restored = await whole.open("restored")
    assert (await received(restored))[-1:] != []
    await restored.send("alice", "from the restored one")
    assert (await texts(await whole.open("alice")))[-1:] == ["from the restored one"]
    with pytest.raises(DeviceKeyStolenError):
        await texts(old)
