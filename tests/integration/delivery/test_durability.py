"""What each durability keeps when the mailboxes' server is killed while messages go in; see docs/operations.md.

That nothing is lost with a master and its disk (``replicated``) is shown in tests/cluster.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from keypost_services.delivery.durability import MailboxServerRefusedError, check_mailbox_servers
from keypost_services.delivery.mailboxes import BEGINNING, Claim, Durability, MailboxLimits, Outcome, Page
from support.mailbox_traffic import traffic
from support.mailboxes import BOB, append, open_mailboxes, posting
from support.valkey import running_valkey

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 3
LIMITS = MailboxLimits(100_000, 64 * 1024 * 1024)


async def test_memory_loses_everything_with_the_server(tmp_path: Path) -> None:
    with running_valkey(tmp_path, maxmemory_policy="noeviction") as server:
        async with open_mailboxes(server.url, durability=Durability.MEMORY) as replica:
            await check_mailbox_servers(replica.servers, Durability.MEMORY)
            with pytest.raises(MailboxServerRefusedError):
                await check_mailbox_servers(replica.servers, Durability.PROCESS)
            message = posting(b"x")
            await append(replica.mailboxes, message)
            server.kill()
            server.start()
            assert await replica.mailboxes.read(Claim(BOB, "stream", 1), BEGINNING, Page(256), 0) == []
            assert (await append(replica.mailboxes, message))[BOB].outcome is Outcome.APPENDED


@pytest.mark.parametrize(
    ("durability", "appendfsync"), [(Durability.PROCESS, "everysec"), (Durability.FSYNC, "always")]
)
async def test_nothing_answered_is_lost_with_the_server_s_process(
    tmp_path: Path, durability: Durability, appendfsync: str
) -> None:
    options = {"appendonly": "yes", "appendfsync": appendfsync, "maxmemory_policy": "noeviction"}
    with running_valkey(tmp_path, **options) as server:
        async with (
            asyncio.timeout(60),
            open_mailboxes(server.url, limits=LIMITS, durability=durability) as one,
            open_mailboxes(server.url, limits=LIMITS) as other,
        ):
            await check_mailbox_servers(one.servers, durability)
            async with traffic(one.mailboxes, other.mailboxes, 8) as conversations:
                for _ in range(KILLS):
                    await asyncio.gather(*(conversation.wait_for_more() for conversation in conversations))
                    server.kill()
                    await asyncio.gather(*(conversation.wait_for_failure() for conversation in conversations))
                    await asyncio.to_thread(server.start)
                await asyncio.gather(*(conversation.wait_for_more() for conversation in conversations))
