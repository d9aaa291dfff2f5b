"""Who renews a key that is not his, or no longer; against the CA, by a client that is not ours."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.clock import DAY
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.key_requests import DeviceKeyPair
from keypost.protocol.realm_trust import Constants
from keypost.protocol.renewal import step_2_hash_new_public_key, step_3_sign_hash
from keypost.protocol.suites import STRONG, WEAK
from support.plain_client import refusal
from support.refusals import raised, refused, served

if TYPE_CHECKING:
    from support.ca_service import CaUnderTest


async def renew(ca: CaUnderTest, request: pb.RenewRequest) -> pb.RenewResponse:
    answer: pb.RenewResponse = await (await ca.devices()).Renew(request, timeout=20)
    return answer


async def good_keys(ca: CaUnderTest) -> list[bytes]:
    return [key.fingerprint for key in (await ca.record("alice")).good_keys(ca.clock())]


@pytest.mark.parametrize("suite", [STRONG, WEAK])
async def test_a_renewal_by_the_wrong_key(ca: CaUnderTest, suite: Any) -> None:
    alice, mallory = await ca.enroll("alice", suite=suite), await ca.enroll("mallory", suite=suite)
    thief = DeviceKeyPair(alice.address, suite, mallory.private_key, mallory.public_key_der)
    _, request = await ca.renew_request(thief, parent_fingerprint=alice.fingerprint)
    await refused(renew(ca, request), "ENDORSEMENT_REFUSED")
    request.key_request.endorsement = bytes(len(request.key_request.endorsement))
    await refused(renew(ca, request), "ENDORSEMENT_REFUSED")
    assert await good_keys(ca) == [alice.fingerprint]


async def test_a_renewal_without_possession_of_the_new_key(ca: CaUnderTest) -> None:
    """Before Bob enrols with it: later nobody can."""
    alice = await ca.enroll("alice")
    bob, his = await ca.enroll_request("bob")
    _, request = await ca.renew_request(alice, public_key_der=bob.public_key_der)
    endorsement_hash = step_2_hash_new_public_key(alice, request.key_request.key_request, bob.public_key_der)
    request.key_request.endorsement = step_3_sign_hash(alice, endorsement_hash)
    await refused(renew(ca, request), "POSSESSION_UNPROVEN")
    await served((await ca.devices()).Enroll(his))


async def test_a_renewal_by_a_replaced_key(ca: CaUnderTest) -> None:
    stolen = await ca.enroll("alice")
    alice = await ca.renew(stolen)
    _, request = await ca.renew_request(stolen)
    await refused(renew(ca, request), "KEY_REPLACED")
    assert await good_keys(ca) == [alice.fingerprint]


async def test_a_renewal_by_a_key_of_an_ended_epoch(ca: CaUnderTest) -> None:
    stolen = await ca.enroll("alice")
    ca.clock.advance(91 * DAY)
    alice = await ca.enroll("alice")
    _, request = await ca.renew_request(stolen)
    await refused(renew(ca, request), "KEY_REVOKED")
    assert await good_keys(ca) == [alice.fingerprint]


async def test_a_renewal_by_a_key_that_expired_long_ago(ca: CaUnderTest) -> None:
    found_in_the_attic = await ca.enroll("alice")
    ca.clock.advance(90 * DAY + Constants().renewal_window)
    _, request = await ca.renew_request(found_in_the_attic)
    await refused(renew(ca, request), "RENEWAL_WINDOW_OVER")


async def test_a_renewal_that_lowers_the_suite(ca: CaUnderTest) -> None:
    alice = await ca.enroll("alice", suite=STRONG)
    _, request = await ca.renew_request(alice, WEAK)
    await refused(renew(ca, request), "SUITE_NOT_ALLOWED")
    assert await good_keys(ca) == [alice.fingerprint]


async def test_two_renewals_of_one_key_at_once(ca: CaUnderTest) -> None:
    alice = await ca.enroll("alice")
    requests = [(await ca.renew_request(alice))[1] for _ in range(3)]
    answers = await asyncio.gather(*(renew(ca, request) for request in requests), return_exceptions=True)
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(await good_keys(ca)) == 1
    assert len(failures) == 2
    for failure in failures:
        await refused(raised(failure), "REVISION_TAKEN")


async def test_a_renewal_held_back_until_its_key_is_replaced(ca: CaUnderTest) -> None:
    """Alice has given its key up; whoever held the request back may have got hold of it since."""
    alice = await ca.enroll("alice")
    _, held_back = await ca.renew_request(alice)
    newest = await ca.renew(alice)
    await refused(renew(ca, held_back), "REVISION_TAKEN")
    assert await good_keys(ca) == [newest.fingerprint]


async def test_a_renewal_replayed_with_another_nonce(ca: CaUnderTest) -> None:
    """Nobody but the holder of the key changes a request, not even what nobody relies upon."""
    _, request = await ca.renew_request(await ca.enroll("alice"))
    statement = keys_pb.KeyRequest.FromString(request.key_request.key_request)
    again = pb.BeginRenewalRequest(username="alice", device_id=statement.device_id)
    statement.ca_nonce = (await (await ca.devices()).BeginRenewal(again)).ca_nonce
    request.key_request.key_request = statement.SerializeToString()
    await refused(renew(ca, request), "POSSESSION_UNPROVEN")


async def test_a_renewal_with_a_nonce_for_another_device(ca: CaUnderTest) -> None:
    alice = await ca.enroll("alice")
    begin = pb.BeginRenewalRequest(username="alice", device_id="a" * 16)
    other = await (await ca.devices()).BeginRenewal(begin)
    _, request = await ca.renew_request(alice, ca_nonce=other.ca_nonce)
    await refused(renew(ca, request), "NONCE_EXPIRED")


async def test_a_renewal_that_is_an_enrolment(ca: CaUnderTest) -> None:
    alice = await ca.enroll("alice")
    for kind in (keys_pb.KEY_REQUEST_KIND_APPROVE, keys_pb.KEY_REQUEST_KIND_ENROLL, keys_pb.KEY_REQUEST_KIND_RESET):
        _, request = await ca.renew_request(alice, kind=kind)
        await refused(renew(ca, request), "INVALID_FIELD", field="key_request.key_request.kind")


async def test_whether_a_user_exists_is_asked_by_beginning_to_renew(ca: CaUnderTest) -> None:
    await ca.enroll("alice")
    stub = await ca.devices()
    begun = [
        await stub.BeginRenewal(pb.BeginRenewalRequest(username=name, device_id="a" * 16))
        for name in ("alice", "nobody", "nobody")
    ]
    shown = [(one.epoch, one.next_revision, len(one.ca_nonce), one.current_time) for one in begun]
    assert shown == [shown[0]] * 3


async def test_whether_a_user_exists_is_asked_by_renewing(ca: CaUnderTest) -> None:
    alice = await ca.enroll("alice")
    answers = []
    for username in ("alice", "nobody"):
        address = type(alice.address)(username, "a" * 16)
        _, request = await ca.renew_request(ca.new_pair(address))
        answers.append(await refusal(renew(ca, request)))
    assert answers[0] == answers[1]
