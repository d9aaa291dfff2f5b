"""A device becomes one of its user's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.client import NotEnrolledError
from keypost.clock import DAY, MINUTE
from keypost.errors import InvalidArgumentError, RefusedError, UnreachableError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import (
    KeyRevokedError,
    SuiteRefusedError,
)
from keypost.protocol.suites import STRONG, WEAK
from support.simulated_ca import WRONG_CODE
from support.simulation import failing

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.simulation import Services

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
RIGHT_CODE = "7" * 26


async def test_enrolment_publishes_a_key_and_is_step_one(alice: Any, services: Services) -> None:
    assert alice.numbers() == [1]
    assert alice.client.address.username == "alice"
    [key] = (await alice.client.devices()).keys
    assert key.address == alice.client.address
    assert key.expire_time == services.realm.clock() + 90 * DAY
    assert "alice" in repr(alice.client)


async def test_enrolling_again_for_the_same_user_changes_nothing(alice: Any, services: Services) -> None:
    assert await alice.client.enroll("alice") == alice.client.address
    assert len(services.requests["Enroll"]) == 1
    with pytest.raises(InvalidArgumentError, match="already"):
        await alice.client.enroll("carol")


async def test_the_code_goes_to_the_ca(open_client: Any, services: Services) -> None:
    carol = await open_client("carol")
    with pytest.raises(RefusedError) as caught:
        await carol.client.enroll("carol", code=WRONG_CODE)
    assert caught.value.reason == "SIGN_IN_REFUSED"
    await carol.client.enroll("carol", code=RIGHT_CODE)
    assert services.requests["Enroll"][0].sign_in.one_time_code == RIGHT_CODE


async def test_a_key_that_the_ca_finds_weak_is_not_asked_for_again(open_client: Any, services: Services) -> None:
    weak = failing(grpc.StatusCode.FAILED_PRECONDITION, "KEY_WEAK", weakness="ROCA")
    services.faults["Enroll"] += [weak]
    carol = await open_client("carol")
    with pytest.raises(RefusedError) as caught:
        await carol.client.enroll("carol")
    assert (caught.value.reason, caught.value.metadata["weakness"]) == ("KEY_WEAK", "ROCA")
    await carol.client.enroll("carol")
    asked = [pb.KeyRequest.FromString(each.key_request.key_request) for each in services.requests["Enroll"]]
    assert asked[0].public_key_der != asked[1].public_key_der


async def test_a_recorded_key_is_not_given_up_for_another_user(open_client: Any, services: Services) -> None:
    services.lost_answers["Enroll"] = 10
    carol = await open_client("carol")
    with pytest.raises(UnreachableError):
        await carol.client.enroll("carol")
    services.lost_answers["Enroll"] = 0
    with pytest.raises(InvalidArgumentError, match="carol"):
        await carol.client.enroll("dave")
    assert carol.client.address.username == "carol"
    assert "dave" not in services.realm.users


async def test_without_a_key_nothing_can_be_done_but_enrol(open_client: Any) -> None:
    carol = await open_client("carol")
    assert carol.client.address is None
    for call in (carol.client.send("bob", "x"), carol.client.renew(), carol.client.keys("bob"), carol.inbox()):
        with pytest.raises(NotEnrolledError):
            await call


async def test_the_strong_suite_is_the_default(alice: Any) -> None:
    assert (await alice.client.devices()).keys[0].suite is STRONG


async def test_the_end_of_a_key_is_reckoned_by_the_clock_of_the_ca(
    open_client: Any, services: Services, clock: ManualClock
) -> None:
    carol = await open_client("carol", clock=lambda: clock() + 4 * MINUTE)
    await carol.client.enroll("carol")
    await carol.client.renew()
    assert {key.expire_time for key in services.realm.users["carol"].keys} == {clock() + 90 * DAY}


async def test_an_enrolment_whose_answer_was_lost_is_asked_for_again_with_the_same_key(
    open_client: Any, services: Services
) -> None:
    services.lost_answers["Enroll"] = 5
    carol = await open_client("carol")
    with pytest.raises(UnreachableError):
        await carol.client.enroll("carol")
    assert carol.client.address is None
    address = await carol.client.enroll("carol")
    assert len(services.requests["BeginEnrollment"]) == 1
    assert [key.address for key in services.realm.users["carol"].keys] == [address]


async def test_an_enrolment_interrupted_by_a_crash_is_finished_at_the_next_start(
    open_client: Any, services: Services
) -> None:
    services.lost_answers["Enroll"] = 5
    carol = await open_client("carol")
    with pytest.raises(UnreachableError):
        await carol.client.enroll("carol")
    await carol.client.close()
    again = await open_client("carol", bundle=None)
    assert again.client.address is not None
    assert len(services.realm.users["carol"].keys) == 1
    assert again.numbers() == [1]


async def test_an_enrolment_that_never_arrived_is_begun_anew_with_the_same_key(
    open_client: Any, services: Services
) -> None:
    services.faults["Enroll"] = [failing(UNAVAILABLE, "SHUTTING_DOWN") for _ in range(5)]
    carol = await open_client("carol")
    with pytest.raises(RefusedError):
        await carol.client.enroll("carol")
    services.nonces.clear()
    address = await carol.client.enroll("carol")
    requests = [pb.KeyRequest.FromString(r.key_request.key_request) for r in services.requests["Enroll"]]
    assert len({request.public_key_der for request in requests}) == 1
    assert address.device_id == requests[-1].device_id
    assert carol.client._parts.identity.current.address == address


async def test_an_enrolment_that_never_arrived_goes_on_after_a_crash(open_client: Any, services: Services) -> None:
    services.faults["Enroll"] = [failing(UNAVAILABLE, "SHUTTING_DOWN") for _ in range(5)]
    carol = await open_client("carol")
    with pytest.raises(RefusedError):
        await carol.client.enroll("carol")
    await carol.client.close()
    again = await open_client("carol", bundle=None)
    assert again.client.address is None
    await again.client.enroll("carol")
    assert len(services.realm.users["carol"].keys) == 1


async def test_another_username_gets_another_key(open_client: Any, services: Services) -> None:
    services.faults["Enroll"] = [failing(grpc.StatusCode.PERMISSION_DENIED, "SIGN_IN_REFUSED")]
    carol = await open_client("carol")
    with pytest.raises(RefusedError):
        await carol.client.enroll("carol")
    await carol.client.enroll("caroline")
    keys = [pb.KeyRequest.FromString(r.key_request.key_request).public_key_der for r in services.requests["Enroll"]]
    assert len(set(keys)) == 2


async def test_a_key_that_was_recorded_and_revoked_at_once_says_so(open_client: Any, services: Services) -> None:
    real = services.realm.record

    def revoked(signed: pb.SignedKeyRequest) -> Any:
        key = real(signed)
        services.realm.set_state(key, pb.KEY_STATE_REVOKED, pb.REVOCATION_REASON_LOST)  # type: ignore[arg-type]
        return key

    services.realm.record = revoked  # type: ignore[method-assign]
    carol = await open_client("carol")
    with pytest.raises(KeyRevokedError):
        await carol.client.enroll("carol")
    assert carol.client.address is None


async def test_a_suite_that_the_realm_does_not_allow_is_not_asked_for(open_client: Any, services: Services) -> None:
    services.realm.constants = replace(services.realm.constants, allowed_suites=(STRONG.id,))
    services.trust = services.realm.signed_trust(sequence=2)
    carol = await open_client("carol", minimum_suite=WEAK)
    with pytest.raises(SuiteRefusedError, match="not allowed"):
        await carol.client.enroll("carol", suite=WEAK)
    assert services.requests["BeginEnrollment"] == []


async def test_a_revision_that_was_taken_is_begun_anew(open_client: Any, services: Services) -> None:
    services.faults["Enroll"] = [failing(grpc.StatusCode.ABORTED, "REVISION_TAKEN") for _ in range(2)]
    carol = await open_client("carol")
    await carol.client.enroll("carol")
    assert len(services.requests["BeginEnrollment"]) == 3
    services.faults["Renew"] = [failing(grpc.StatusCode.ABORTED, "REVISION_TAKEN") for _ in range(9)]
    with pytest.raises(RefusedError, match="REVISION_TAKEN"):
        await carol.client.renew()
    assert len(services.requests["BeginRenewal"]) == 5
    assert carol.numbers("renewal").count(1) == 1
