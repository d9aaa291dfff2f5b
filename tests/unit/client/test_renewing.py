"""A key is replaced by its successor: by itself, across failures, and by whom it must not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.client.stopping import STOLEN
from keypost.clock import DAY, HOUR, MINUTE
from keypost.errors import RefusedError, UnreachableError
from keypost.protocol.errors import (
    DeviceKeyStolenError,
    KeyRevokedError,
    NoUsableDeviceError,
)
from support.refusing import refuse
from support.simulation import failing

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.simulation import Services

SETTLE = HOUR + 5 * MINUTE
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def test_renewal_takes_all_eight_steps_and_messages_go_on(alice: Any, bob: Any) -> None:
    sent = await alice.client.send("bob", "before")
    old = alice.client._parts.identity.current.fingerprint
    key = await alice.client.renew()
    assert alice.numbers("renewal") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert key.fingerprint == alice.client._parts.identity.current.fingerprint != old
    after = await alice.client.send("bob", "after")
    assert after.new_session
    assert after.key_id != sent.key_id
    assert [message.text for message in await bob.inbox()] == ["before", "after"]
    assert alice.client._parts.identity.ring.replaced[0].fingerprint == old


async def test_a_message_begun_while_the_key_is_replaced_goes_under_the_new_one(
    alice: Any, bob: Any, services: Services
) -> None:
    """The own record is at hand from before, and the recipient's is still being looked up."""

    async def renew(_context: Any) -> None:
        await alice.client.renew()

    services.faults["GetKeyInfo"] = [renew]
    await alice.client.send("bob", "begun before")
    assert services.faults["GetKeyInfo"] == []
    assert [message.text for message in await bob.inbox()] == ["begun before"]


async def test_what_was_sealed_to_the_old_key_still_opens(alice: Any, bob: Any) -> None:
    await alice.client.send("bob", "sealed to the old key")
    await bob.client.renew()
    assert [message.text for message in await bob.inbox()] == ["sealed to the old key"]


async def test_the_old_key_goes_with_the_first_empty_queue_after_it_settled(
    alice: Any, bob: Any, clock: ManualClock
) -> None:
    await bob.client.renew()
    clock.advance(SETTLE - 1)
    await bob.inbox()
    assert len(bob.client._parts.identity.ring.replaced) == 1
    clock.advance(1)
    await alice.client.send("bob", "just in time")
    assert [message.text for message in await bob.inbox()] == ["just in time"]
    assert bob.client._parts.identity.ring.replaced == ()
    assert "OLD_KEY_DESTROYED" in bob.reasons()


async def test_the_old_key_stays_while_something_sealed_to_it_waits(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "early")
    await bob.client.renew()
    services.faults["GetKeyInfo"] = []
    unavailable = failing(UNAVAILABLE, "CA_UNAVAILABLE")
    await bob.client.keys("bob")
    services.faults["GetKeyInfo"] = [unavailable] * 10
    assert await bob.inbox() == []
    assert bob.reasons("waiting") == ["CA_UNAVAILABLE"]
    clock.advance(SETTLE - 1)
    services.faults["GetKeyInfo"] = []
    await bob.client.keys("bob")
    clock.advance(1)

    async def only_bob(context: Any) -> None:
        if services.requests["GetKeyInfo"][-1].username != "bob":
            await unavailable(context)

    services.faults["GetKeyInfo"] = [only_bob] * 40
    assert await bob.inbox() == []
    assert len(bob.client._parts.identity.ring.replaced) == 1
    services.faults["GetKeyInfo"] = []
    assert [message.text for message in await bob.inbox()] == ["early"]
    assert await bob.inbox() == []
    assert bob.client._parts.identity.ring.replaced == ()


async def test_a_renewal_whose_answer_was_lost_ends_with_the_same_key(alice: Any, services: Services) -> None:
    services.lost_answers["Renew"] = 5
    with pytest.raises(UnreachableError):
        await alice.client.renew()
    pending = alice.client._parts.identity.ring.pending.fingerprint
    key = await alice.client.renew()
    assert key.fingerprint == pending
    assert alice.client._parts.identity.ring.pending is None
    assert len(services.realm.users["alice"].keys) == 2


async def test_a_renewal_interrupted_by_a_crash_is_finished_at_the_next_start(
    alice: Any, bob: Any, services: Services, open_client: Any
) -> None:
    services.lost_answers["Renew"] = 5
    with pytest.raises(UnreachableError):
        await alice.client.renew()
    await alice.client.close()
    again = await open_client("alice", bundle=None)
    assert again.numbers("renewal") == [8]
    await again.client.send("bob", "hello")
    assert [message.text for message in await bob.inbox()] == ["hello"]


async def test_a_renewal_that_never_arrived_is_begun_anew_with_the_same_pair(alice: Any, services: Services) -> None:
    services.faults["Renew"] = [failing(UNAVAILABLE, "SHUTTING_DOWN") for _ in range(5)]
    with pytest.raises(RefusedError):
        await alice.client.renew()
    pending = alice.client._parts.identity.ring.pending.fingerprint
    assert (await alice.client.renew()).fingerprint == pending


@pytest.mark.usefixtures("bob")
async def test_renewal_happens_by_itself_at_two_thirds_of_the_lifetime(alice: Any, clock: ManualClock) -> None:
    clock.advance(60 * DAY - 1)
    await alice.client.send("bob", "not yet")
    assert alice.numbers("renewal") == []
    clock.advance(1)
    await alice.client.send("bob", "now")
    assert alice.numbers("renewal") == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_renewal_happens_by_itself_while_receiving(alice: Any, bob: Any, clock: ManualClock) -> None:
    await alice.client.send("bob", "one")
    async with asyncio.timeout(20):
        async for message in bob.client.receive():
            if message.text == "two":
                break
            clock.advance(60 * DAY)
            bob.client._parts.newer.set()
            await bob.until(lambda: 8 in bob.numbers("renewal"))
            clock.advance(HOUR)
            await alice.client.send("bob", "two")
    assert bob.numbers("renewal") == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_what_fails_while_receiving_is_told_and_tried_again(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "one")
    async with asyncio.timeout(20):
        iterator = bob.client.receive()
        await anext(iterator)
        services.faults["Renew"] = [failing(grpc.StatusCode.FAILED_PRECONDITION, "KEY_REPLACED")]
        clock.advance(60 * DAY)
        bob.client._parts.newer.set()
        await bob.until(lambda: "DEVICE_KEY_STOLEN" in bob.reasons("warning"))
        await iterator.aclose()


async def test_renewal_by_itself_can_be_switched_off_and_its_failure_stops_nothing(
    alice: Any, bob: Any, clock: ManualClock, services: Services, open_client: Any
) -> None:
    clock.advance(61 * DAY)
    services.faults["Renew"] = [failing(UNAVAILABLE, "SHUTTING_DOWN") for _ in range(5)]
    await alice.client.send("bob", "sent all the same")
    assert "SHUTTING_DOWN" in alice.reasons("warning")
    asked = len(services.requests["BeginRenewal"])
    await alice.client.send("bob", "not tried again at once")
    assert len(services.requests["BeginRenewal"]) == asked
    await bob.client.close()
    manual = await open_client("bob", automatic_renewal=False)
    await manual.client.send("alice", "no")
    assert manual.numbers("renewal") == []


async def test_an_expired_key_can_still_be_renewed_and_does_nothing_else(
    alice: Any, bob: Any, clock: ManualClock, open_client: Any
) -> None:
    await bob.client.close()
    manual = await open_client("bob", automatic_renewal=False)
    clock.advance(91 * DAY)
    with pytest.raises(RefusedError, match="TOKEN_REFUSED"):
        await manual.client.send("alice", "no")
    with pytest.raises(NoUsableDeviceError):
        await alice.client.send("bob", "it waits in the outbox for a key that can read it")
    assert alice.reasons("waiting") == ["NO_USABLE_DEVICE"]
    assert alice.numbers("renewal") == [1, 2, 3, 4, 5, 6, 7, 8]
    await manual.client.renew()
    clock.advance(HOUR)
    await alice.client.send("bob", "now")
    texts = [message.text for message in await manual.inbox()]
    assert texts == ["it waits in the outbox for a key that can read it", "now"]


async def test_a_revoked_device_stops_receiving(alice: Any, bob: Any, services: Services) -> None:
    services.realm.revoke(bob.client._parts.identity.current)
    await bob.client._parts.records.learn("bob", services.realm.key_info("bob"))
    with pytest.raises(KeyRevokedError):
        await bob.inbox()
    with pytest.raises(KeyRevokedError):
        await bob.client.send("alice", "x")
    with pytest.raises(NoUsableDeviceError):
        await alice.client.send("bob", "x")


async def test_that_the_key_was_revoked_is_no_theft(alice: Any, services: Services, clock: ManualClock) -> None:
    """The device was away for long: what it holds of its user says nothing of it, and a renewal is due."""
    services.realm.revoke(alice.client._parts.identity.current)
    clock.advance(61 * DAY)
    with pytest.raises(KeyRevokedError):
        await alice.client.renew()
    with pytest.raises(KeyRevokedError):
        await alice.client.send("bob", "x")
    assert await alice.client._parts.context.store.run(lambda store: store.profile.note(STOLEN)) is None


async def test_that_the_key_was_replaced_stops_the_device_for_good(
    alice: Any, services: Services, open_client: Any
) -> None:
    services.faults["Renew"] = [failing(grpc.StatusCode.FAILED_PRECONDITION, "KEY_REPLACED")]
    with pytest.raises(DeviceKeyStolenError):
        await alice.client.renew()
    await alice.client.close()
    again = await open_client("alice", bundle=None)
    with pytest.raises(DeviceKeyStolenError):
        await again.client.send("bob", "x")


async def test_a_renewal_whose_answer_was_lost_is_no_theft(alice: Any, services: Services) -> None:
    services.lost_answers["Renew"] = 5
    with pytest.raises(UnreachableError):
        await alice.client.renew()
    record = await alice.client._parts.records.learn("alice", services.realm.key_info("alice"))
    assert len(record.keys) == 2
    await alice.client.renew()
    assert (await alice.client.devices()).revision == 2


async def test_a_renewal_that_is_found_to_be_done_while_it_is_asked_for_again_is_done(
    alice: Any, services: Services
) -> None:
    services.lost_answers["Renew"] = 5
    with pytest.raises(UnreachableError):
        await alice.client.renew()
    pending = alice.client._parts.identity.pending.fingerprint
    behind = failing(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED")

    async def meanwhile(_context: Any) -> None:
        await alice.client._parts.renewing.settle()

    services.lost_answers["Renew"] = 0
    services.faults["GetKeyInfo"] = [behind, behind]
    services.faults["BeginRenewal"] = [meanwhile]
    assert (await alice.client.renew()).fingerprint == pending
    assert alice.client._parts.identity.current.fingerprint == pending
    assert alice.client._parts.identity.ring.pending is None


async def test_the_steps_stay_in_order_where_a_look_up_shows_the_new_key_before_the_answer_is_there(
    alice: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = services.answer

    async def late(method: str, context: Any) -> None:
        if method == "Renew":
            await alice.client._parts.renewing.settle()
        await answer(method, context)

    monkeypatch.setattr(services, "answer", late)
    await alice.client.renew()
    assert alice.numbers("renewal") == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_two_who_find_out_at_once_that_a_renewal_is_done_both_go_on(alice: Any, services: Services) -> None:
    services.lost_answers["Renew"] = 5
    with pytest.raises(UnreachableError):
        await alice.client.renew()
    identity, settle = alice.client._parts.identity, alice.client._parts.renewing.settle
    pending = identity.pending.fingerprint

    async def nothing(_context: Any) -> None: ...

    first = asyncio.create_task(settle())

    async def once_the_other_has_finished(context: Any) -> None:
        await first
        await refuse(context, grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")

    services.faults["GetKeyInfo"] = [nothing, once_the_other_has_finished]
    await asyncio.gather(first, settle())
    assert identity.current.fingerprint == pending


async def test_an_answer_that_was_overtaken_by_the_renewal_of_another_device_is_no_step_back(
    alice: Any, open_client: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await open_client("alice2")
    request = await other.client.join((await alice.client.invite()).text)
    await alice.client.approve(request.text)
    await other.client.joined()
    overtaken: list[int] = []

    async def late(method: str, _context: Any) -> None:
        if method == "Renew" and not overtaken:
            overtaken.append(1)
            await other.client.renew()
            # So alice knows of both renewals before she has the answer to her own.
            overtaken.append((await alice.client._parts.records.get("alice", refresh=True)).revision)

    monkeypatch.setattr(services, "answer", late)
    key = await alice.client.renew()
    assert overtaken == [1, services.realm.users["alice"].revision]
    assert (await alice.client.devices()).find(key.fingerprint) is not None
    assert alice.client._parts.identity.current.fingerprint == key.fingerprint
    assert alice.reasons("error") == []
    assert await alice.client.evidence("alice") == ()


async def test_an_approval_by_the_own_key_is_no_theft(alice: Any, services: Services) -> None:
    services.realm.approve(alice.client._parts.identity.current)
    await alice.client._parts.records.learn("alice", services.realm.key_info("alice"))
    await alice.client.renew()
    assert len((await alice.client.devices()).good_keys(services.realm.clock())) == 2
