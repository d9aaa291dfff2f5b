"""The device that invites a further one, and approves it or does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.client.records import RecordBehindError
from keypost.clock import DAY, MINUTE
from keypost.errors import RefusedError, UnreachableError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import EndorsementError, KeyUnknownError, SuiteRefusedError
from keypost.protocol.invitations import read_invitation
from keypost.protocol.key_info import REVOKED
from keypost.protocol.suites import STRONG, WEAK
from support.second_device import approved
from support.simulation import failing

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.second_device import Second
    from support.simulation import Services

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def test_an_invitation_holds_what_the_request_must_contain(alice: Any, services: Services) -> None:
    invitation = await alice.client.invite()
    assert read_invitation(invitation.text) == invitation
    own = (await alice.client.devices()).keys[0]
    assert (invitation.realm, invitation.epoch, invitation.revision) == ("example.org", 1, 2)
    assert (invitation.root, invitation.parent_fingerprint) == (own.fingerprint, own.fingerprint)
    assert invitation.expire_time == services.realm.clock() + 10 * MINUTE
    assert "nonce" not in repr(invitation)


async def test_what_is_asked_can_be_looked_at_before_it_is_approved(
    alice: Any, second: Second, services: Services
) -> None:
    request = await alice.client.read_request(second.request)
    assert request.address == read_invitation(second.invitation).address
    assert request.suite is STRONG
    assert services.requests["Approve"] == []


async def test_an_approval_whose_answers_are_all_lost_is_asked_for_again(
    alice: Any, second: Second, services: Services
) -> None:
    services.lost_answers["Approve"] = 5
    with pytest.raises(UnreachableError):
        await alice.client.approve(second.request)
    key = await alice.client.approve(second.request)
    assert key.address == read_invitation(second.invitation).address
    assert len(services.realm.users["alice"].keys) == 2


async def test_an_approval_that_never_arrived_is_asked_for_again_after_a_restart(
    alice: Any, second: Second, services: Services, open_client: Any
) -> None:
    services.faults["Approve"] = [failing(UNAVAILABLE, "SHUTTING_DOWN") for _ in range(5)]
    with pytest.raises(RefusedError):
        await alice.client.approve(second.request)
    await alice.client.close()
    again = await open_client("alice", bundle=None)
    await again.client.approve(second.request)
    assert await second.client.joined() == second.client.address


async def test_a_nonce_that_the_ca_takes_no_more_says_so(alice: Any, second: Second, services: Services) -> None:
    services.nonces.clear()
    with pytest.raises(RefusedError) as caught:
        await alice.client.approve(second.request)
    assert caught.value.reason == "NONCE_EXPIRED"


async def test_another_change_in_between_wants_a_new_invitation(alice: Any, second: Second, services: Services) -> None:
    services.realm.approve(alice.client._parts.identity.current)
    with pytest.raises(EndorsementError, match="invite anew"):
        await alice.client.approve(second.request)
    request = await second.client.join((await alice.client.invite()).text)
    await alice.client.approve(request.text)
    assert await second.client.joined() == request.address


async def test_a_change_that_takes_the_revision_at_the_last_moment_is_the_cas_to_refuse(
    alice: Any, second: Second, services: Services
) -> None:
    services.faults["Approve"] = [failing(grpc.StatusCode.ABORTED, "REVISION_TAKEN")]
    with pytest.raises(RefusedError, match="REVISION_TAKEN"):
        await alice.client.approve(second.request)
    assert await alice.client.approve(second.request)


async def test_a_renewal_in_between_wants_a_new_invitation(alice: Any, second: Second) -> None:
    await alice.client.renew()
    with pytest.raises(EndorsementError, match="earlier key of this one"):
        await alice.client.approve(second.request)


async def test_an_answer_that_does_not_show_the_device_is_not_believed(
    alice: Any, second: Second, services: Services
) -> None:
    services.realm.record = lambda _signed: None  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(KeyUnknownError):
        await alice.client.approve(second.request)


async def test_an_answer_that_shows_the_device_as_revoked_is_not_believed(
    alice: Any, second: Second, services: Services
) -> None:
    real = services.realm.record

    def revoked(signed: pb.SignedKeyRequest) -> Any:
        key = real(signed)
        services.realm.set_state(key, REVOKED, pb.REVOCATION_REASON_LOST)  # type: ignore[arg-type]
        return key

    services.realm.record = revoked  # type: ignore[method-assign]
    with pytest.raises(KeyUnknownError):
        await alice.client.approve(second.request)


async def test_a_directory_that_is_behind_the_ca_is_waited_for(alice: Any, services: Services) -> None:
    stale = services.realm.key_info("alice")
    services.realm.approve(alice.client._parts.identity.current)
    services.serve_key_info = lambda _name, _info: stale
    with pytest.raises(RecordBehindError):
        await alice.client.invite()


async def test_a_weak_key_invites_nobody(open_client: Any) -> None:
    carol = await open_client("carol", minimum_suite=WEAK)
    await carol.client.enroll("carol", suite=WEAK)
    with pytest.raises(EndorsementError, match="weak suite"):
        await carol.client.invite()


async def test_a_weak_key_is_not_approved(alice: Any, open_client: Any) -> None:
    weak = await open_client("weak", minimum_suite=WEAK)
    request = await weak.client.join((await alice.client.invite()).text, WEAK)
    with pytest.raises(SuiteRefusedError):
        await alice.client.approve(request.text)


async def test_a_key_that_is_due_is_renewed_before_it_invites(alice: Any, clock: ManualClock) -> None:
    clock.advance(61 * DAY)
    invitation = await alice.client.invite()
    assert invitation.parent_fingerprint == alice.client._parts.identity.current.fingerprint
    assert alice.numbers("renewal")


async def test_the_device_that_approves_is_told_no_news(alice: Any, second: Second) -> None:
    await approved(alice, second)
    await alice.client.devices()
    assert alice.reasons() == []
