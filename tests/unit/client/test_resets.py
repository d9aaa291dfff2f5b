"""An identity begins anew: announced to every device, cancelled by one of them, or in force when its time has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.clock import DAY, HOUR
from keypost.errors import InvalidArgumentError, RefusedError, UnreachableError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import IdentityChangedError, KeyRevokedError
from support.simulated_ca import WRONG_CODE
from support.simulation import failing

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.simulation import Services


async def test_a_reset_takes_effect_once_its_time_has_come(
    alice: Any, bob: Any, open_client: Any, clock: ManualClock
) -> None:
    fresh = await open_client("fresh")
    assert await fresh.client.request_reset("alice") == clock() + DAY
    clock.advance(DAY)
    await fresh.client.enroll("alice")
    record = await fresh.client.devices()
    assert (record.epoch, record.reset_time) == (2, 0)
    assert [key.request.kind for key in record.keys if key.is_good] == [pb.KEY_REQUEST_KIND_RESET]
    assert record.keys[0].reason == pb.REVOCATION_REASON_RESET
    with pytest.raises(KeyRevokedError):
        await alice.client.devices()
    await bob.client.send("alice", "first contact")
    assert [message.text for message in await fresh.inbox()] == ["first contact"]


async def test_peers_see_a_changed_identity(alice: Any, bob: Any, open_client: Any, clock: ManualClock) -> None:
    await bob.client.send("alice", "before")
    fresh = await open_client("fresh")
    await fresh.client.request_reset("alice")
    clock.advance(DAY)
    await fresh.client.enroll("alice")
    with pytest.raises(IdentityChangedError):
        await bob.client.send("alice", "after")
    assert alice.client.address is not None


async def test_every_device_is_told_of_an_announcement_once(
    alice: Any, open_client: Any, services: Services, clock: ManualClock
) -> None:
    services.realm.announce_reset("alice")
    for _ in range(2):
        await alice.client.devices()
    assert alice.reasons("error") == ["RESET_ANNOUNCED"]
    [event] = alice.events
    assert event.facts["reset_time"] == clock() + DAY
    await alice.client.close()
    again = await open_client("alice", bundle=None)
    await again.client.devices()
    assert again.reasons() == []


async def test_an_announcement_is_heard_of_while_receiving(alice: Any, services: Services, clock: ManualClock) -> None:
    await alice.inbox()
    services.realm.announce_reset("alice")
    await alice.inbox()
    assert alice.reasons() == []
    clock.advance(HOUR)
    await alice.inbox()
    assert alice.reasons("error") == ["RESET_ANNOUNCED"]


async def test_a_second_announcement_is_told_too(alice: Any, services: Services, clock: ManualClock) -> None:
    services.realm.announce_reset("alice")
    await alice.client.devices()
    await alice.client.cancel_reset()
    clock.advance(HOUR)
    services.realm.announce_reset("alice")
    await alice.client.devices()
    assert alice.reasons() == ["RESET_ANNOUNCED", "RESET_CANCELLED", "RESET_ANNOUNCED"]


async def test_a_device_cancels(alice: Any, open_client: Any, clock: ManualClock) -> None:
    fresh = await open_client("fresh")
    await fresh.client.request_reset("alice")
    record = await alice.client.cancel_reset()
    assert record.reset_time == 0
    assert record.revision == 3
    clock.advance(DAY)
    assert (await alice.client.devices()).epoch == 1


async def test_without_an_announcement_there_is_nothing_to_cancel(alice: Any, services: Services) -> None:
    assert (await alice.client.cancel_reset()).revision == 1
    assert services.requests["CancelReset"] == []


@pytest.mark.parametrize("lost", [1, 5])
async def test_lost_answers_cost_nothing(alice: Any, open_client: Any, services: Services, lost: int) -> None:
    fresh = await open_client("fresh")
    services.lost_answers["RequestReset"] = services.lost_answers["CancelReset"] = lost
    if lost == 5:
        with pytest.raises(UnreachableError):
            await fresh.client.request_reset("alice")
    await fresh.client.request_reset("alice")
    if lost == 5:
        with pytest.raises(UnreachableError):
            await alice.client.cancel_reset()
    assert (await alice.client.cancel_reset()).revision == 3


async def test_a_revision_that_was_taken_is_signed_anew(alice: Any, services: Services) -> None:
    services.realm.announce_reset("alice")
    services.faults["CancelReset"] = [failing(grpc.StatusCode.ABORTED, "REVISION_TAKEN") for _ in range(2)]
    assert (await alice.client.cancel_reset()).reset_time == 0
    assert len(services.requests["CancelReset"]) == 3


async def test_the_sign_in_goes_to_the_ca(alice: Any, open_client: Any) -> None:
    fresh = await open_client("fresh")
    with pytest.raises(RefusedError, match="SIGN_IN_REFUSED"):
        await fresh.client.request_reset("alice", code=WRONG_CODE)
    with pytest.raises(RefusedError, match="RESET_NOT_NEEDED"):
        await fresh.client.request_reset("nobody")
    with pytest.raises(InvalidArgumentError):
        await fresh.client.request_reset("alice", code="short")
    assert alice.client.address is not None


async def test_an_enrolment_by_reset_whose_answer_was_lost_is_asked_for_again(
    alice: Any, open_client: Any, services: Services, clock: ManualClock
) -> None:
    fresh = await open_client("fresh")
    await fresh.client.request_reset("alice")
    clock.advance(DAY)
    services.lost_answers["Enroll"] = 5
    with pytest.raises(UnreachableError):
        await fresh.client.enroll("alice")
    await fresh.client.close()
    again = await open_client("fresh", bundle=None)
    assert again.client.address is not None
    assert (await again.client.devices()).epoch == 2
    assert len(services.realm.users["alice"].keys) == 2
    assert alice.client.address is not None
