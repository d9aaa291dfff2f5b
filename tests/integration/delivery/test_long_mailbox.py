"""A mailbox with 100,000 waiting: what a batch costs the server does not grow with what waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost_services.delivery.mailboxes import BEGINNING, Claim, MailboxLimits, Outcome, Page
from support.mailboxes import BOB, NOW, OpenMailboxes, open_mailboxes, posting
from support.valkey import running_valkey

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 100_000
STORED_AT_ONCE = 500
DRAINED_AT_ONCE = 256
LIMITS = MailboxLimits(COUNT, 1024 * 1024 * 1024)
CLAIM = Claim(BOB, "stream", 1)
MOST = 4.0
"""How many times as much the last tenth may cost as the first. Work that grows with what waits would be 19 times; a
server that has grown from nothing to 100 MB misses its caches more often, which comes to 1.7."""


class Meter:
    """What batches cost the server: seconds of CPU time, which does not depend on what else the machine does."""

    def __init__(self, opened: OpenMailboxes) -> None:
        self._client = opened.client
        self._times: list[float] = []

    async def look(self) -> None:
        """Put down what was spent until now."""
        spent = await self._client.info("cpu")
        self._times.append(spent["used_cpu_user_main_thread"] + spent["used_cpu_sys_main_thread"])

    def growth(self) -> float:
        """Return how many times as much a batch of the last tenth costs as one of the first."""
        times, tenth = self._times, len(self._times) // 10
        return (times[-1] - times[-1 - tenth]) / (times[tenth] - times[0])


async def test_a_hundred_thousand_are_stored_drained_and_acknowledged_at_the_same_cost_throughout(
    tmp_path: Path,
) -> None:
    with running_valkey(tmp_path) as server:
        async with open_mailboxes(server.url, limits=LIMITS) as opened:
            stored = Meter(opened)
            await stored.look()
            for start in range(0, COUNT, STORED_AT_ONCE):
                bodies = (f"{number:0200}".encode() for number in range(start, start + STORED_AT_ONCE))
                for result in await opened.mailboxes.append_all([posting(body, accept_time=NOW) for body in bodies]):
                    assert isinstance(result, dict)
                    assert result[BOB].outcome is Outcome.APPENDED
                await stored.look()
            (refused,) = await opened.mailboxes.append_all([posting(b"x")])
            assert isinstance(refused, dict)
            assert refused[BOB].outcome is Outcome.FULL
            drained = await _drained(opened)
    assert stored.growth() < MOST
    assert 1 / MOST < drained.growth() < MOST  # it is the longest at first


async def _drained(opened: OpenMailboxes) -> Meter:
    """Read and acknowledge everything, in order."""
    meter, after, came = Meter(opened), BEGINNING, 0
    await opened.mailboxes.claim(CLAIM)
    await meter.look()
    while found := await opened.mailboxes.read(CLAIM, after, Page(DRAINED_AT_ONCE), NOW - 1):
        assert [int(waiting.envelope) for waiting in found] == list(range(came, came + len(found)))
        came, after = came + len(found), found[-1].delivery_id
        ids = [waiting.delivery_id for waiting in found]
        assert await opened.mailboxes.acknowledge(BOB, ids) == len(found)
        await meter.look()
    assert came == COUNT
    assert (await opened.mailboxes.waiting(BOB)).messages == 0
    return meter
