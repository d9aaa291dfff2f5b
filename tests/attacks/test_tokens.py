"""Tokens that show somebody else than who calls, or that are over; shown to delivery by a client that is not ours."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keypost.clock import MINUTE, SECOND
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.keys.v1.key_info_pb2 import KEY_EVENT_KIND_REVOKED, REVOCATION_REASON_COMPROMISED
from keypost.protocol.realm_trust import Constants
from keypost.protocol.suites import STRONG, WEAK
from support.attacks import check_told
from support.plain_client import pkcs1v15, refusal
from support.plain_world import PlainWorld
from support.realm import LIFETIME
from support.refusals import token_refused

if TYPE_CHECKING:
    from support.delivery import Stack
    from support.plain_client import PlainDevice

HOUR_OF_TOKENS = 10 * MINUTE // SECOND


@pytest.fixture
async def bob(plain_world: PlainWorld) -> PlainDevice:
    """Bob, for whom a message waits that nobody else may read."""
    await plain_world.alice.send("bob", "for Bob alone")
    return plain_world.bob


@pytest.fixture
async def mallory(plain_world: PlainWorld) -> PlainDevice:
    return plain_world.mallory


@pytest.fixture
def issued(plain_world: PlainWorld) -> int:
    """The time, in seconds."""
    return plain_world.stack.clock() // SECOND


async def test_a_token_signed_by_somebody_else(bob: PlainDevice, mallory: PlainDevice) -> None:
    await token_refused(mallory.waiting(bob.token(sign=mallory.sign)), "BAD_SIGNATURE")


@pytest.mark.parametrize("algorithm", ["none", "HS256", "HS384", "ES256", "PS512", "EdDSA", "RS256"])
async def test_a_token_by_an_algorithm_of_the_attackers_choice(
    bob: PlainDevice, mallory: PlainDevice, algorithm: str
) -> None:
    curve_key = ec.generate_private_key(ec.SECP256R1())
    public_pem = bob.pair.private_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    forgeries: dict[str, Any] = {
        "none": lambda _data: b"",
        "HS256": lambda data: hmac.digest(public_pem, data, "sha256"),
        "HS384": lambda data: hmac.digest(bob.pair.public_key_der, data, "sha384"),
        "ES256": lambda data: curve_key.sign(data, ec.ECDSA(hashes.SHA256())),
    }
    token = bob.token(header={"alg": algorithm}, sign=forgeries.get(algorithm, mallory.sign))
    await token_refused(mallory.waiting(token), "MALFORMED")


async def test_a_strong_key_in_the_form_of_the_weak_suite(bob: PlainDevice) -> None:
    token = bob.token(header={"alg": "RS256"}, sign=pkcs1v15(bob.pair))
    await token_refused(bob.waiting(token), "MALFORMED")


@pytest.mark.parametrize("who", ["sub", "kid"])
async def test_a_token_of_ones_own_that_names_somebody_else(bob: PlainDevice, mallory: PlainDevice, who: str) -> None:
    named: dict[str, Any] = {"sub": str(bob.pair.address)}
    if who == "kid":
        named = {"header": {"kid": bob.pair.fingerprint.hex()}}
    await token_refused(mallory.waiting(mallory.token(**named)), "UNKNOWN_KEY")


async def test_a_token_of_another_device_of_the_user(plain_world: PlainWorld, bob: PlainDevice) -> None:
    tablet = await plain_world.device(plain_world.stack.realm.approve(bob.pair))
    await token_refused(tablet.waiting(tablet.token(sub=str(bob.pair.address))), "WRONG_KEY")


@pytest.mark.parametrize("service", ["directory", "ca", "delivery2"])
async def test_a_token_for_another_service(bob: PlainDevice, mallory: PlainDevice, service: str) -> None:
    overheard = bob.token(aud=f"{bob.realm}/{service}")
    await token_refused(mallory.waiting(overheard), "WRONG_AUDIENCE")


async def test_a_token_without_the_one_audience(bob: PlainDevice, mallory: PlainDevice) -> None:
    here, elsewhere = f"{bob.realm}/delivery", f"{bob.realm}/directory"
    lists: list[object] = [[here], [here, elsewhere], [elsewhere], {here: True}]
    for audience in (*lists, "example.com/delivery", "EXAMPLE.ORG/delivery", f"{here} ", "", 7, None):
        await token_refused(mallory.waiting(bob.token(aud=audience)), "WRONG_AUDIENCE")


async def test_an_expired_token(plain_world: PlainWorld, bob: PlainDevice, mallory: PlainDevice) -> None:
    overheard = bob.token()
    plain_world.stack.clock.advance(10 * MINUTE)
    await token_refused(mallory.waiting(overheard), "EXPIRED")


async def test_a_token_that_expires_while_its_bearer_is_remembered(
    plain_world: PlainWorld, bob: PlainDevice, mallory: PlainDevice, issued: int
) -> None:
    overheard = bob.token(exp=issued + 30)
    assert len(await bob.waiting(overheard)) == 1
    plain_world.stack.clock.advance(30 * SECOND)
    await token_refused(mallory.waiting(overheard), "EXPIRED")


async def test_a_token_that_lives_too_long(bob: PlainDevice, issued: int) -> None:
    await token_refused(bob.waiting(bob.token(exp=issued + HOUR_OF_TOKENS + 1)), "LIVES_TOO_LONG")


async def test_a_token_made_for_later(bob: PlainDevice, issued: int) -> None:
    later = issued + 5 * 60 + 1
    await token_refused(bob.waiting(bob.token(iat=later, exp=later + 60)), "NOT_YET_VALID")


@pytest.mark.parametrize("name", ["iat", "exp"])
async def test_a_token_without_its_times(bob: PlainDevice, name: str) -> None:
    values: list[Any] = [None, "1800000300", 1_800_000_300.5, True, [1_800_000_300], {}]
    for value in values:
        await token_refused(bob.waiting(bob.token(**{name: value})), "MALFORMED")


async def test_a_token_by_a_superseded_key(plain_world: PlainWorld, bob: PlainDevice) -> None:
    plain_world.stack.realm.renew(bob.pair)
    await plain_world.tell("bob")
    await token_refused(bob.waiting(), "KEY_SUPERSEDED")


async def test_a_token_by_a_revoked_key(plain_world: PlainWorld, bob: PlainDevice) -> None:
    plain_world.stack.realm.revoke(bob.pair)
    await plain_world.tell("bob", kind=KEY_EVENT_KIND_REVOKED)
    await token_refused(bob.waiting(), "KEY_REVOKED")


async def test_a_token_by_an_expired_key(plain_world: PlainWorld, bob: PlainDevice) -> None:
    plain_world.stack.clock.advance(LIFETIME)
    await token_refused(bob.waiting(), "KEY_EXPIRED")


async def test_a_token_by_a_key_that_a_compromised_one_vouched_for(plain_world: PlainWorld, bob: PlainDevice) -> None:
    realm = plain_world.stack.realm
    since = plain_world.stack.clock()
    plain_world.stack.clock.advance(MINUTE)
    slipped_in = await plain_world.device(realm.approve(bob.pair))
    realm.revoke(bob.pair, REVOCATION_REASON_COMPROMISED, since)
    await token_refused(slipped_in.waiting(), "KEY_VOID")


async def test_a_remembered_bearer_after_the_key_event(plain_world: PlainWorld, bob: PlainDevice) -> None:
    # No stream: that is looked at by itself as it begins.
    stolen = bob.metadata()
    assert (await bob.delivery.ListMailboxes(pb.ListMailboxesRequest(), metadata=stolen)).mailboxes
    plain_world.stack.realm.renew(bob.pair)
    await plain_world.tell("bob", ended_fingerprint=bob.pair.fingerprint)
    await token_refused(bob.delivery.ListMailboxes(pb.ListMailboxesRequest(), metadata=stolen), "KEY_SUPERSEDED")


async def test_a_stream_that_stands_after_the_key_event(plain_world: PlainWorld) -> None:
    bob, alice = plain_world.bob, plain_world.alice
    stream: Any = bob.delivery.Receive(metadata=bob.metadata())
    await stream.write(pb.ReceiveRequest(start=pb.Start()))
    assert (await stream.read()).HasField("queue_empty")
    renewed = await plain_world.device(plain_world.stack.realm.renew(bob.pair))
    await plain_world.tell("bob", ended_fingerprint=bob.pair.fingerprint)
    await alice.send("bob", "for the new key")
    await token_refused(stream.read(), "KEY_CHANGED")
    assert await renewed.texts() == ["for the new key"]


async def test_two_tokens_at_once(bob: PlainDevice, mallory: PlainDevice) -> None:
    metadata = (*mallory.metadata(), *bob.metadata())
    envelope = await bob.envelope("alice")
    await token_refused(mallory.delivery.Send(pb.SendRequest(envelope=envelope), metadata=metadata), "MALFORMED")


async def test_a_token_that_is_too_long(bob: PlainDevice) -> None:
    await token_refused(bob.waiting(bob.token(padding="x" * 4096)), "MALFORMED")


async def test_bad_tokens_by_the_thousand(limited: PlainWorld) -> None:
    mallory, bob = limited.mallory, limited.bob

    async def show(token: str) -> None:
        # One call each: a stream whose refusal is hidden is opened again, and would count twice.
        await mallory.delivery.ListMailboxes(pb.ListMailboxesRequest(), metadata=mallory.metadata(token))

    await limited.alice.send("bob")
    for number in range(3):
        await token_refused(show(bob.token(sign=mallory.sign, jti=str(number))), "BAD_SIGNATURE")
    asked = limited.look_ups
    ghosts = [limited.stack.realm.new_address(f"ghost{number}") for number in range(20)]
    told = [(await refusal(show(mallory.token(sub=str(ghost)))))[1] for ghost in ghosts]
    assert limited.look_ups == asked
    check_told(told, "RATE_LIMITED")


@pytest.fixture
async def limited(delivery_stack: Stack) -> PlainWorld:
    """A replica that takes three bad tokens at once from an address."""
    return await PlainWorld(delivery_stack).start(token_lookups_per_second=0.3)


async def test_whether_a_user_exists_is_asked_by_tokens(plain_world: PlainWorld, mallory: PlainDevice) -> None:
    realm = plain_world.stack.realm
    ghost = realm.new_address("ghost")
    answers = [await refusal(mallory.waiting(mallory.token(sub=name))) for name in (f"bob/{'a' * 16}", str(ghost))]
    assert answers[0] == answers[1]


async def test_a_weak_key_where_the_realm_has_given_the_suite_up(delivery_stack: Stack) -> None:
    weak = delivery_stack.realm.enroll("carol", WEAK)
    delivery_stack.realm.constants = Constants(allowed_suites=(STRONG.id,))
    carol = await (await PlainWorld(delivery_stack).start()).device(weak)
    await token_refused(carol.waiting(), "SUITE_NOT_ALLOWED")
