"""What the holder of an ended key could still have opened, with a delivery that dates it as he likes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import MINUTE
from keypost.keys.v1 import key_info_pb2
from support.attacks import check_told
from support.hostile import Peer, claiming_revision
from support.talk import text

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.simulation import Services


@pytest.fixture
def carol(services: Services) -> Peer:
    """An honest user until her key ends: then somebody else has it."""
    return Peer.enroll(services, "carol")


async def test_a_message_by_a_revoked_key(bob: Any, carol: Peer, services: Services, clock: ManualClock) -> None:
    offer = carol.offer("bob")
    clock.advance(1)
    services.realm.revoke(carol.pair)
    clock.advance(1)
    await carol.put(bob.client.address, offer, text("by whoever found the device"))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "KEY_REVOKED")


async def test_a_message_by_a_replaced_key(bob: Any, carol: Peer, services: Services, clock: ManualClock) -> None:
    services.realm.renew(carol.pair)
    clock.advance(services.realm.constants.settle + 1)
    await carol.put(bob.client.address, carol.offer("bob"), text("by whoever kept the old key"))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "KEY_SUPERSEDED")


async def test_a_message_by_an_expired_key(bob: Any, carol: Peer, services: Services) -> None:
    [key] = services.realm.users["carol"].keys
    offer = carol.offer("bob")
    await carol.put(bob.client.address, offer, text("too late"), accept_time=key.expire_time)
    assert await bob.inbox() == []
    check_told(bob.reasons(), "KEY_EXPIRED")


async def test_a_message_by_a_compromised_key(bob: Any, carol: Peer, services: Services, clock: ManualClock) -> None:
    """Whenever it was signed: whoever had the key could date it back."""
    offer, accept_time = carol.offer("bob"), clock()
    clock.advance(1)
    services.realm.revoke(carol.pair, key_info_pb2.REVOCATION_REASON_COMPROMISED)
    await carol.put(bob.client.address, offer, text("dated back"), accept_time=accept_time)
    assert await bob.inbox() == []
    check_told(bob.reasons(), "KEY_REVOKED")


@pytest.mark.parametrize("end", ["revoke", "renew"])
async def test_a_message_dated_back_behind_the_end_of_its_key(
    bob: Any, carol: Peer, services: Services, clock: ManualClock, end: str
) -> None:
    """Once the mailbox was empty after the end was known, nothing honest is under way any more."""
    await carol.put(bob.client.address, carol.offer("bob"), text("in time"))
    assert [message.text for message in await bob.inbox()] == ["in time"]
    accept_time = clock()
    offer = carol.offer("bob")
    clock.advance(1)
    getattr(services.realm, end)(carol.pair)
    clock.advance(services.realm.constants.settle)
    await bob.client.keys("carol")
    assert await bob.inbox() == []
    await carol.put(bob.client.address, offer, text("dated back"), accept_time=accept_time)
    assert await bob.inbox() == []
    check_told(bob.reasons("set_aside"), "KEY_REVOKED" if end == "revoke" else "KEY_SUPERSEDED")


async def test_rubbish_that_waits_so_that_an_ended_key_stays_listened_to(
    bob: Any, carol: Peer, services: Services, clock: ManualClock
) -> None:
    offer, accept_time = carol.offer("bob"), clock()
    withheld = carol.write(offer, text("kept back by delivery"))
    services.realm.renew(carol.pair)
    clock.advance(services.realm.constants.settle)
    await bob.client.keys("carol")
    await services.put(bob.client.address, claiming_revision(withheld, 10**6))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "RECORD_BEHIND")
    await services.put(bob.client.address, withheld, accept_time)
    assert await bob.inbox() == []
    check_told(bob.reasons("set_aside"), "KEY_SUPERSEDED")


async def test_rubbish_that_keeps_a_replaced_private_key(
    bob: Any, carol: Peer, services: Services, clock: ManualClock
) -> None:
    sealed = carol.write(carol.offer("bob"), text("sealed to the old key"))
    await bob.client.renew()
    clock.advance(services.realm.constants.settle)
    await services.put(bob.client.address, claiming_revision(sealed, 10**6))
    await bob.inbox()
    [old] = bob.client._parts.identity.ring.replaced
    for revision in range(10**6 + 1, 10**6 + 4):
        clock.advance(6 * MINUTE)
        await services.put(bob.client.address, claiming_revision(sealed, revision))
        await bob.inbox()
    # What came before the key ended holds it up to the age limit, though it was set aside; what came later does not.
    clock.advance(services.realm.constants.age_limit - 18 * MINUTE + 1)
    await bob.inbox()
    await bob.inbox()
    assert bob.client._parts.identity.ring.find(old.fingerprint) is None
