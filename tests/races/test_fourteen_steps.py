"""The race of the source document: a key is renewed while it takes part in a negotiation, at each of the steps.

"keep the old RSA key pair until the negotiation process is completed to avoid the potential encryption key issue while
CA is updating the key information during the key negotiation process". The services are real, and so are the clients;
what the test decides is the moment. The CA gets the renewal just before the step, and its answer arrives after the
last one.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from support.interleaving import PATIENCE, RenewalUnderWay, before_call, before_step
from support.racing import alarms_of, check_cut_off

if TYPE_CHECKING:
    from keypost.protocol.suites import Suite
    from support.racing import NamedPerson

SENDER, RECIPIENT = "sender", "recipient"
SENDS = range(2, 8)
RECEIVES = range(8, 15)


@dataclass
class Pair:
    """Two people who have never met."""

    sender: NamedPerson
    recipient: NamedPerson
    suite: Suite

    def of(self, side: str) -> NamedPerson:
        return self.sender if side == SENDER else self.recipient

    async def exchange(self) -> None:
        """Write to each other, as they do when everything is over."""
        for one, other in ((self.sender, self.recipient), (self.recipient, self.sender)):
            await one.client.send(other.name, "afterwards")
            assert [message.text for message in await other.inbox()] == ["afterwards"]


async def two_people(open_person: Any, suite: Suite) -> Pair:
    suffix = secrets.token_hex(4)
    return Pair(await open_person(f"ann-{suffix}"), await open_person(f"ben-{suffix}"), suite)


@pytest.fixture
async def pair(open_person: Any, suite: Suite) -> Pair:
    found = await two_people(open_person, suite)
    for person in (found.sender, found.recipient):
        await person.client.enroll(person.name, suite=suite)
    return found


@pytest.mark.parametrize("side", [SENDER, RECIPIENT])
async def test_a_key_is_renewed_while_the_other_publishes_his(open_person: Any, suite: Suite, side: str) -> None:
    """Step 1."""
    pair = await two_people(open_person, suite)
    early, late = (pair.recipient, pair.sender) if side == SENDER else (pair.sender, pair.recipient)
    await early.client.enroll(early.name, suite=suite)
    renewal = RenewalUnderWay(early.client)
    async with asyncio.timeout(PATIENCE):
        await renewal.begin()
        with before_call(late.client._parts.enrolling._ca, "enroll", renewal.record):
            await late.client.enroll(late.name, suite=suite)
        assert renewal.is_recorded
        await renewal.finish()
        await pair.exchange()
    assert alarms_of(pair.sender) == alarms_of(pair.recipient) == []


@pytest.mark.parametrize("side", [SENDER, RECIPIENT])
@pytest.mark.parametrize("step", [*SENDS, *RECEIVES])
async def test_a_key_is_renewed_during_a_step(pair: Pair, step: int, side: str) -> None:
    renewal = RenewalUnderWay(pair.of(side).client)
    old = pair.of(side).client._parts.identity.current
    async with asyncio.timeout(PATIENCE):
        await renewal.begin()
        with before_step(step, renewal.record) if step in SENDS else nullcontext():
            await pair.sender.client.send(pair.recipient.name, "under way")
        with before_step(step, renewal.record) if step in RECEIVES else nullcontext():
            texts = [message.text for message in await pair.recipient.inbox()]
        assert renewal.is_recorded, "the step was never taken"
        key = await renewal.finish()
        assert texts == ["under way"]
        assert key.fingerprint == pair.of(side).client._parts.identity.current.fingerprint != old.fingerprint
        await pair.exchange()
        await check_cut_off(pair.of(side).client, old)
    assert alarms_of(pair.sender) == alarms_of(pair.recipient) == []
