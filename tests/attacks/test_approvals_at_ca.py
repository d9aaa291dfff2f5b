"""Who brings a device in beside those of a user; against the CA, by a client that is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.clock import DAY
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.identifiers import Address
from keypost.protocol.key_requests import DeviceKeyPair
from keypost.protocol.renewal import step_2_hash_new_public_key, step_3_sign_hash
from keypost.protocol.suites import STRONG, WEAK, Suite
from support.keys import KeyPool
from support.plain_client import refusal
from support.refusals import refused, served

if TYPE_CHECKING:
    from support.ca_service import CaUnderTest

LOST = keys_pb.REVOCATION_REASON_LOST


@pytest.fixture
async def alice(ca: CaUnderTest) -> DeviceKeyPair:
    return await ca.enroll("alice", suite=STRONG)


async def approve(ca: CaUnderTest, request: pb.ApproveRequest) -> pb.ApproveResponse:
    answer: pb.ApproveResponse = await (await ca.devices()).Approve(request, timeout=20)
    return answer


async def approve_by(ca: CaUnderTest, parent: DeviceKeyPair, **changes: Any) -> None:
    _, request = await ca.approve_request(parent, **changes)
    await approve(ca, request)


async def test_an_approval_by_the_wrong_key(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    mallory = await ca.enroll("mallory", suite=STRONG)
    thief = DeviceKeyPair(Address("alice", "a" * 16), STRONG, mallory.private_key, mallory.public_key_der)
    await refused(approve_by(ca, thief, parent_fingerprint=alice.fingerprint), "ENDORSEMENT_REFUSED")
    await refused(approve_by(ca, thief), "ENDORSEMENT_REFUSED")


async def test_an_approval_moved_to_another_request(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    _, approved = await ca.approve_request(alice)
    _, request = await ca.approve_request(alice)
    request.key_request.endorsement = approved.key_request.endorsement
    await refused(approve(ca, request), "ENDORSEMENT_REFUSED")


async def test_an_approval_by_a_replaced_key(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    await ca.renew(alice)
    await refused(approve_by(ca, alice), "KEY_REPLACED")


async def test_an_approval_by_an_expired_key(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    ca.clock.advance(90 * DAY)
    await refused(approve_by(ca, alice), "KEY_EXPIRED")


async def test_an_approval_by_a_revoked_key(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    stolen = await ca.approve(alice)
    await ca.revoke(stolen, alice, reason=LOST)
    await refused(approve_by(ca, stolen), "KEY_REVOKED")


async def test_an_approval_held_back_until_its_device_was_revoked(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    stolen = await ca.approve(alice)
    _, held_back = await ca.approve_request(stolen)
    await ca.revoke(stolen, alice, reason=LOST)
    await refused(approve(ca, held_back), "KEY_REVOKED")


async def test_an_approval_by_a_weak_key(ca: CaUnderTest) -> None:
    await refused(approve_by(ca, await ca.enroll("bob", suite=WEAK)), "ENDORSEMENT_REFUSED")


async def test_the_key_of_another_as_a_further_device(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    """Before Bob enrols with it: later nobody can."""
    bob, his = await ca.enroll_request("bob")
    _, request = await ca.approve_request(alice, public_key_der=bob.public_key_der)
    endorsement_hash = step_2_hash_new_public_key(alice, request.key_request.key_request, bob.public_key_der)
    request.key_request.endorsement = step_3_sign_hash(alice, endorsement_hash)
    await refused(approve(ca, request), "POSSESSION_UNPROVEN")
    await served((await ca.devices()).Enroll(his))


async def test_an_invitation_for_a_mailbox_of_the_clients_choice(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    await refused(approve_by(ca, alice, device_id="a" * 16), "NONCE_EXPIRED")


async def test_an_invitation_of_another_purpose(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    begin = pb.BeginRenewalRequest(username="alice", device_id="a" * 16)
    begun = await (await ca.devices()).BeginRenewal(begin)
    await refused(approve_by(ca, alice, device_id="a" * 16, ca_nonce=begun.ca_nonce), "NONCE_EXPIRED")


async def test_an_invitation_used_twice(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    """Both keys would be good at one address: nobody could read the record any more."""
    first, request = await ca.approve_request(alice)
    nonce = keys_pb.KeyRequest.FromString(request.key_request.key_request).ca_nonce
    await approve(ca, request)
    again = approve_by(ca, alice, device_id=first.address.device_id, ca_nonce=nonce)
    await refused(again, "NONCE_EXPIRED")


class FreshKeys(KeyPool):
    """Makes keys: more are used than the pool has, and small ones are quickly made."""

    def __call__(self, suite: Suite = WEAK) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(65537, suite.key_bits)


async def test_more_devices_than_anybody_has(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    """Whoever writes to her would have to seal to each of them."""
    ca.keys = FreshKeys()
    for _ in range(31):
        await approve_by(ca, alice)
    await refused(approve_by(ca, alice), "TOO_MANY_DEVICES", most="32")


async def test_whether_a_user_exists_is_asked_by_inviting(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    assert alice.address.username == "alice"
    stub = await ca.devices()
    begun = [await stub.BeginApproval(pb.BeginApprovalRequest(username=name)) for name in ("alice", "nobody", "nobody")]
    shown = [(one.epoch, one.next_revision, len(one.ca_nonce), len(one.device_id), one.current_time) for one in begun]
    assert shown == [shown[0]] * 3


async def test_whether_a_user_exists_is_asked_by_approving(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    answers = []
    for username in ("alice", "nobody"):
        pair = DeviceKeyPair(Address(username, "a" * 16), STRONG, alice.private_key, alice.public_key_der)
        _, request = await ca.approve_request(pair, parent_fingerprint=b"p" * 32)
        answers.append(await refusal(approve(ca, request)))
    assert answers[0] == answers[1]
