"""Who enrols as somebody else, or with a key that may not enter; against the CA, by a client that is not ours."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.clock import DAY, MINUTE
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.encoding import fingerprint
from keypost.protocol.identifiers import Address
from keypost.protocol.key_requests import DeviceKeyPair, sign_possession
from keypost.protocol.realm_trust import Constants
from keypost.protocol.rsa import public_key_der
from keypost.protocol.suites import STRONG, WEAK
from support.bad_keys import KINDS, bad_key
from support.ca_service import OPEN, CaUnderTest, open_ca
from support.keys import KeyPool
from support.plain_client import refusal
from support.refusals import raised, refused, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

GUESS = pb.SignIn(one_time_code="0" * 26)


@pytest.fixture
async def ca(tmp_path: Path) -> AsyncIterator[CaUnderTest]:
    """A CA that asks for one-time codes, as it does unless it is told otherwise."""
    async with open_ca(tmp_path, sign_in="code") as opened:
        yield opened


async def enroll(ca: CaUnderTest, request: pb.EnrollRequest) -> pb.EnrollResponse:
    answer: pb.EnrollResponse = await (await ca.devices()).Enroll(request, timeout=20)
    return answer


async def request_for(ca: CaUnderTest, username: str, **changes: Any) -> tuple[DeviceKeyPair, pb.EnrollRequest]:
    """Return an enrolment with a good code, and ``changes`` to the key request before it is signed."""
    return await ca.enroll_request(username, await ca.code(username), **changes)


async def enroll_with(ca: CaUnderTest, username: str, sign_in: pb.SignIn) -> None:
    _, request = await ca.enroll_request(username, sign_in)
    await enroll(ca, request)


async def test_a_guessed_code(ca: CaUnderTest) -> None:
    await refused(enroll_with(ca, "alice", GUESS), "SIGN_IN_REFUSED")
    await refused(ca.record("alice"), "USER_NOT_FOUND")


async def test_a_kind_of_sign_in_that_is_switched_off(ca: CaUnderTest) -> None:
    await refused(enroll_with(ca, "alice", OPEN), "SIGN_IN_REFUSED")
    await refused(ca.record("alice"), "USER_NOT_FOUND")


async def test_the_code_of_another_user(ca: CaUnderTest) -> None:
    await refused(enroll_with(ca, "alice", await ca.code("mallory")), "SIGN_IN_REFUSED")


async def test_an_expired_code(ca: CaUnderTest) -> None:
    found = await ca.code("alice", "1h")
    ca.clock.advance(DAY)
    await refused(enroll_with(ca, "alice", found), "SIGN_IN_REFUSED")


async def test_a_code_that_was_withdrawn(ca: CaUnderTest) -> None:
    """It was sent to Mallory, in error; he has begun already."""
    _, request = await ca.enroll_request("alice", await ca.code("alice"))
    await (await ca.administrator()).withdraw_codes("alice")
    await refused(enroll(ca, request), "SIGN_IN_REFUSED")
    await refused(ca.record("alice"), "USER_NOT_FOUND")


async def test_a_code_used_up(ca: CaUnderTest) -> None:
    code = await ca.code("alice")
    alice, request = await ca.enroll_request("alice", code, expire_time=ca.clock() + MINUTE)
    await enroll(ca, request)
    ca.clock.advance(MINUTE)  # her key has expired: nothing but the code stands between
    await refused(enroll_with(ca, "alice", code), "SIGN_IN_REFUSED")
    assert [key.fingerprint for key in (await ca.record("alice")).keys] == [alice.fingerprint]


async def test_a_code_used_by_many_at_once(ca: CaUnderTest) -> None:
    code = await ca.code("alice")
    requests = [(await ca.enroll_request("alice", code))[1] for _ in range(4)]
    answers = await asyncio.gather(*(enroll(ca, request) for request in requests), return_exceptions=True)
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len((await ca.record("alice")).keys) == 1
    assert len(failures) == 3
    for failure in failures:
        await refused(raised(failure), "SIGN_IN_REFUSED")


async def test_codes_guessed_one_after_the_other(tmp_path: Path) -> None:
    async with open_ca(tmp_path, sign_in="code", anonymous_calls_per_second=0.5) as ca:
        right = await ca.code("alice")
        stub = await ca.devices()
        for sign_in in (GUESS, GUESS):
            call = stub.BeginEnrollment(pb.BeginEnrollmentRequest(username="alice", sign_in=sign_in))
            await refused(call, "SIGN_IN_REFUSED")
        call = stub.BeginEnrollment(pb.BeginEnrollmentRequest(username="alice", sign_in=right))
        await refused(call, "RATE_LIMITED")


async def test_whether_a_user_exists_is_asked_by_enrolling(ca: CaUnderTest) -> None:
    await ca.enroll("alice", await ca.code("alice"))
    stub = await ca.devices()
    answers = [
        await refusal(stub.BeginEnrollment(pb.BeginEnrollmentRequest(username=name, sign_in=sign_in)))
        for name in ("alice", "nobody")
        for sign_in in (OPEN, GUESS)
    ]
    assert answers == [answers[0]] * 4


async def test_a_further_device_without_approval(ca: CaUnderTest) -> None:
    alice = await ca.enroll("alice", await ca.code("alice"))
    await refused(enroll_with(ca, "alice", await ca.code("alice")), "APPROVAL_REQUIRED")
    assert [key.fingerprint for key in (await ca.record("alice")).good_keys(ca.clock())] == [alice.fingerprint]


async def test_the_key_of_another_user_as_ones_own(ca: CaUnderTest) -> None:
    """Before Alice does: later nobody can, not even she."""
    alice, hers = await request_for(ca, "alice")
    _, request = await request_for(ca, "mallory", public_key_der=alice.public_key_der)
    await refused(enroll(ca, request), "POSSESSION_UNPROVEN")
    await served(enroll(ca, hers))


async def test_an_overheard_request_under_another_name(ca: CaUnderTest) -> None:
    _, request = await request_for(ca, "alice")
    statement = keys_pb.KeyRequest.FromString(request.key_request.key_request)
    code = await ca.code("mallory")
    begun = await (await ca.devices()).BeginEnrollment(pb.BeginEnrollmentRequest(username="mallory", sign_in=code))
    statement.username, statement.device_id, statement.ca_nonce = "mallory", begun.device_id, begun.ca_nonce
    request.key_request.key_request = statement.SerializeToString()
    request.sign_in.CopyFrom(code)
    await refused(enroll(ca, request), "POSSESSION_UNPROVEN")


async def test_a_key_that_was_recorded_before(ca: CaUnderTest) -> None:
    """Even by who has its private key: a leaked one, say."""
    alice = await ca.enroll("alice", await ca.code("alice"))
    code = await ca.code("mallory")
    begun = await (await ca.devices()).BeginEnrollment(pb.BeginEnrollmentRequest(username="mallory", sign_in=code))
    address = Address("mallory", begun.device_id)
    leaked = DeviceKeyPair(address, alice.suite, alice.private_key, alice.public_key_der)
    signed = sign_possession(ca.request(leaked, begun), leaked)
    await refused(enroll(ca, pb.EnrollRequest(key_request=signed, sign_in=code)), "KEY_ALREADY_KNOWN")


@pytest.mark.parametrize("weakness", sorted(KINDS))
async def test_a_key_that_anybody_can_break(ca: CaUnderTest, weakness: str) -> None:
    """Mallory has the private key: he factored what a broken generator made for Alice."""
    await refused(enroll_key(ca, bad_key(weakness, WEAK)), "KEY_WEAK", weakness=weakness)


async def test_a_key_on_the_block_list(tmp_path: Path) -> None:
    """Its private half was published, as those of the pool of these tests are."""
    published = KeyPool()(WEAK)
    blocked = tmp_path / "blocked.txt"
    blocked.write_text(f"{fingerprint(public_key_der(published)).hex()}  # in somebody's repository\n")
    async with open_ca(tmp_path, sign_in="code", blocked_keys=blocked) as ca:
        await refused(enroll_key(ca, published), "KEY_WEAK", weakness="BLOCKED")


async def enroll_key(ca: CaUnderTest, private_key: RSAPrivateKey) -> None:
    code = await ca.code("alice")
    begun = await (await ca.devices()).BeginEnrollment(pb.BeginEnrollmentRequest(username="alice", sign_in=code))
    pair = DeviceKeyPair(Address("alice", begun.device_id), WEAK, private_key, public_key_der(private_key))
    await enroll(ca, pb.EnrollRequest(key_request=sign_possession(ca.request(pair, begun), pair), sign_in=code))


async def test_a_nonce_of_another_name(ca: CaUnderTest) -> None:
    code = await ca.code("mallory")
    begun = await (await ca.devices()).BeginEnrollment(pb.BeginEnrollmentRequest(username="mallory", sign_in=code))
    _, request = await request_for(ca, "alice", ca_nonce=begun.ca_nonce)
    await refused(enroll(ca, request), "NONCE_EXPIRED")


async def test_a_nonce_of_a_renewal(ca: CaUnderTest) -> None:
    code = await ca.code("alice")
    stub = await ca.devices()
    begun = await stub.BeginEnrollment(pb.BeginEnrollmentRequest(username="alice", sign_in=code))
    other = await stub.BeginRenewal(pb.BeginRenewalRequest(username="alice", device_id=begun.device_id))
    pair = ca.new_pair(Address("alice", begun.device_id))
    signed = sign_possession(ca.request(pair, begun, ca_nonce=other.ca_nonce), pair)
    await refused(enroll(ca, pb.EnrollRequest(key_request=signed, sign_in=code)), "NONCE_EXPIRED")


async def test_an_old_request_that_was_held_back(ca: CaUnderTest) -> None:
    _, request = await request_for(ca, "alice")
    ca.clock.advance(10 * MINUTE)
    await refused(enroll(ca, request), "NONCE_EXPIRED")


async def test_a_device_id_of_the_clients_choice(ca: CaUnderTest) -> None:
    _, request = await request_for(ca, "alice", device_id="a" * 16)
    await refused(enroll(ca, request), "NONCE_EXPIRED")


async def test_an_enrolment_that_is_a_renewal(ca: CaUnderTest) -> None:
    kinds = keys_pb.KEY_REQUEST_KIND_RENEW, keys_pb.KEY_REQUEST_KIND_APPROVE
    for kind in kinds:
        pair, request = await request_for(ca, "alice", kind=kind, parent_fingerprint=b"p" * 32)
        request.key_request.endorsement = bytes(pair.suite.signature_bytes)
        await refused(enroll(ca, request), "INVALID_FIELD", field="key_request.key_request.kind")


async def test_a_key_of_another_realm(ca: CaUnderTest) -> None:
    _, request = await request_for(ca, "alice", realm="example.com")
    await refused(enroll(ca, request), "INVALID_FIELD", field="key_request.key_request.realm")


@pytest.mark.parametrize("lifetime", [-1, 0, 90 * DAY + 1, 2**62])
async def test_a_key_that_lives_longer_than_policy(ca: CaUnderTest, lifetime: int) -> None:
    _, request = await request_for(ca, "alice", expire_time=max(ca.clock() + lifetime, 1))
    await refused(enroll(ca, request), "KEY_LIFETIME_REFUSED")


async def test_a_weak_key_where_only_strong_ones_are_allowed(tmp_path: Path) -> None:
    async with open_ca(tmp_path, constants=Constants(allowed_suites=(STRONG.id,))) as ca:
        _, request = await ca.enroll_request("alice", suite=WEAK)
        await refused(enroll(ca, request), "SUITE_NOT_ALLOWED")


@pytest.mark.parametrize("changes", [{"revision": 2}, {"epoch": 2}, {"revision": 2**62}])
async def test_a_key_that_enters_at_another_revision(ca: CaUnderTest, changes: dict[str, int]) -> None:
    _, request = await request_for(ca, "alice", **changes)
    await refused(enroll(ca, request), "REVISION_TAKEN")
