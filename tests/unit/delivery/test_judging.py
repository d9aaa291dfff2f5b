"""The extensions of a batch are judged at the same time, and not for longer than is said."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from keypost.protocol.identifiers import Address
from keypost_services.delivery.judging import Judging, Stale
from keypost_services.runtime.errors import ServiceError

ALICE = Address("alice", "aaaaaaaaaaaaaaaa")


class Known:
    """A key extension that was sealed for older revisions."""

    def __init__(self, to: str, sender: Address = ALICE) -> None:
        self.extension = SimpleNamespace(
            signer=SimpleNamespace(address=sender),
            recipient_username=to,
            sender_revision=1,
            recipient_revision=1,
            sign_time=0,
            session_create_time=0,
        )


class Records:
    """A directory that is silent about some; says when it was asked about so many."""

    def __init__(self, silent: int) -> None:
        self.asked: list[str] = []
        self.all_asked = asyncio.Event()
        self.gate = asyncio.Event()
        self._silent = silent

    def newest(self, username: str) -> Any:
        return None if username.startswith("new") else SimpleNamespace(revision=1)

    def held(self, _username: str, _revision: int) -> Any:
        """Nothing is held that need not be asked for."""

    async def at_least(self, username: str, _revision: int) -> Any:
        if username.startswith("silent"):
            self.asked.append(username)
            if len(self.asked) == self._silent:
                self.all_asked.set()
            await self.gate.wait()
        return SimpleNamespace(revision=2, username=username)


def judging_by(records: Any) -> Judging:
    caller: Any = SimpleNamespace(address=ALICE)
    return Judging(caller, records, None, 0)  # type: ignore[arg-type]  # nothing here gets as far as the trust


def to(*recipients: str) -> list[Any]:
    return [SimpleNamespace(known=Known(one), send_time=0) for one in recipients]


async def test_all_of_a_batch_are_looked_up_at_once() -> None:
    records = Records(silent=3)
    judging, envelopes = judging_by(records), to("silent1", "silent2", "bob", "silent3")
    preparing = asyncio.ensure_future(judging.prepare(envelopes, 60))
    async with asyncio.timeout(5):
        await records.all_asked.wait()
        records.gate.set()
        await preparing
    assert [type(await judging.judge(one)) for one in envelopes] == [Stale] * 4
    assert len(records.asked) == 3


async def test_what_is_not_looked_up_in_time_is_refused_and_the_rest_is_judged() -> None:
    judging, envelopes = judging_by(Records(silent=2)), to("silent1", "silent2", "bob")
    async with asyncio.timeout(5):
        await judging.prepare(envelopes, 0.05)
        *refused, bobs = [await judging.judge(one) for one in envelopes]
    assert [one.reason for one in refused if isinstance(one, ServiceError)] == ["DIRECTORY_UNAVAILABLE"] * 2
    assert isinstance(bobs, Stale)


async def test_who_was_never_seen_is_looked_up_in_turn_alone() -> None:
    records = Records(silent=1)
    judging, envelopes = judging_by(records), to("new1", "silent1")
    records.gate.set()
    await judging.prepare(envelopes, 60)
    assert records.asked == ["silent1"]
    assert isinstance(await judging.judge(envelopes[0]), Stale)


async def test_nobody_is_looked_up_for_what_the_caller_does_not_send() -> None:
    records = Records(silent=1)
    mallory = Address("mallory", "mmmmmmmmmmmmmmmm")
    foreign: Any = SimpleNamespace(known=Known("silent1", mallory), send_time=0)
    await judging_by(records).prepare([foreign], 60)
    assert records.asked == []
