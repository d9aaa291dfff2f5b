from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.client import NotEnrolledError
from keypost.clock import DAY, HOUR, MINUTE
from keypost.errors import InvalidArgumentError, RefusedError, UnreachableError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol import negotiation
from keypost.protocol.errors import (
    DeviceKeyStolenError,
    EquivocationError,
    IdentityChangedError,
    KeyRevokedError,
    KeyUnknownError,
    NoUsableDeviceError,
    RecordExpiredError,
    RecordRegressedError,
    SignatureInvalidError,
    SuiteRefusedError,
)
from keypost.protocol.suites import STRONG, WEAK
from support.simulation import failing

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.simulation import Services

SETTLE = HOUR + 5 * MINUTE
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


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
        await carol.client.enroll("carol", code="WRONG")
    assert caught.value.reason == "SIGN_IN_REFUSED"
    await carol.client.enroll("carol", code="RIGHT")
    assert services.requests["Enroll"][0].sign_in.one_time_code == "RIGHT"


async def test_without_a_key_nothing_can_be_done_but_enrol(open_client: Any) -> None:
    carol = await open_client("carol")
    assert carol.client.address is None
    for call in (carol.client.send("bob", "x"), carol.client.renew(), carol.client.keys("bob"), carol.inbox()):
        with pytest.raises(NotEnrolledError):
            await call


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


async def test_an_answer_that_does_not_show_the_key_as_good_is_not_believed(
    open_client: Any, services: Services
) -> None:
    real = services.realm.record

    def revoked(signed: pb.SignedKeyRequest) -> Any:
        key = real(signed)
        services.realm.set_state(key, pb.KEY_STATE_REVOKED, pb.REVOCATION_REASON_LOST)  # type: ignore[arg-type]
        return key

    services.realm.record = revoked  # type: ignore[method-assign]
    carol = await open_client("carol")
    with pytest.raises(KeyUnknownError):
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


async def test_a_successor_that_this_device_did_not_ask_for_stops_it_for_good(
    alice: Any, services: Services, clock: ManualClock, open_client: Any
) -> None:
    thief = alice.client._parts.identity.current
    services.realm.renew(thief)
    services.faults["Renew"] = [failing(grpc.StatusCode.FAILED_PRECONDITION, "KEY_REPLACED")]
    with pytest.raises(DeviceKeyStolenError):
        await alice.client.renew()
    clock.advance(HOUR)
    with pytest.raises((DeviceKeyStolenError, RefusedError)):
        await alice.client.send("bob", "who am I?")
    record = services.realm.key_info("alice")
    with pytest.raises(DeviceKeyStolenError):
        await alice.client._parts.records.learn("alice", record)
    for call in (alice.client.send("bob", "x"), alice.client.renew(), alice.client.keys("bob"), alice.inbox()):
        with pytest.raises(DeviceKeyStolenError):
            await call
    await alice.client.close()
    again = await open_client("alice", bundle=None)
    with pytest.raises(DeviceKeyStolenError):
        await again.client.send("bob", "x")


async def test_a_revoked_device_stops_receiving(alice: Any, bob: Any, services: Services) -> None:
    services.realm.revoke(bob.client._parts.identity.current)
    await bob.client._parts.records.learn("bob", services.realm.key_info("bob"))
    with pytest.raises(KeyRevokedError):
        await bob.inbox()
    with pytest.raises(KeyRevokedError):
        await bob.client.send("alice", "x")
    with pytest.raises(NoUsableDeviceError):
        await alice.client.send("bob", "x")


async def test_stale_keys_are_negotiated_anew_with_the_same_id(alice: Any, bob: Any, services: Services) -> None:
    await alice.client.send("bob", "one")
    await bob.client.renew()
    sent = await alice.client.send("bob", "two")
    assert sent.new_session
    last = services.requests["Send"][-2:]
    assert last[0].envelope.header != last[1].envelope.header
    assert sent.counter == 2
    assert alice.numbers()[-6:] == [2, 3, 4, 5, 6, 7]
    assert [message.text for message in await bob.inbox()] == ["one", "two"]


@pytest.mark.usefixtures("bob")
async def test_stale_keys_without_a_newer_record_are_not_asked_about_for_ever(alice: Any, services: Services) -> None:
    await alice.client.send("bob", "one")
    stale, real = services.realm.key_info("bob"), services.realm.key_info
    services.realm.users["bob"].revision += 1
    services.realm.key_info = lambda name, **_: stale if name == "bob" else real(name)  # type: ignore[method-assign]
    with pytest.raises(RefusedError) as caught:
        await alice.client.send("bob", "two")
    assert caught.value.reason == "STALE_KEYS"
    assert caught.value.retriable
    assert len(services.requests["Send"]) == 7


@pytest.mark.usefixtures("bob")
async def test_a_key_that_the_directory_slips_in_blocks_sending(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "one")
    realm = services.realm
    old_root = realm.key_record("bob").keys[0]
    realm.users["bob"].keys = ()
    realm.users["bob"].epoch = 2
    mallory = realm.enroll("bob")
    clock.advance(HOUR)
    with pytest.raises((IdentityChangedError, RecordRegressedError)):
        await alice.client.send("bob", "for Mallory?")
    assert mallory.fingerprint != old_root.fingerprint
    assert alice.reasons("error")
    with pytest.raises((IdentityChangedError, RecordRegressedError)):
        await alice.client.send("bob", "for Mallory?")


@pytest.mark.usefixtures("bob")
async def test_a_reset_identity_blocks_until_it_is_accepted(alice: Any, services: Services, clock: ManualClock) -> None:
    await alice.client.send("bob", "one")
    new = services.realm.reset("bob")
    clock.advance(HOUR)
    with pytest.raises(IdentityChangedError) as caught:
        await alice.client.send("bob", "two")
    sent = len(services.requests["Send"])
    with pytest.raises(IdentityChangedError):
        await alice.client.accept_identity("bob", b"\0" * 32)
    root = bytes.fromhex(caught.value.metadata["root"])
    assert root == new.fingerprint
    record = await alice.client.accept_identity("bob", root)
    assert record.epoch == 2
    await alice.client.send("bob", "three")
    assert len(services.requests["Send"]) == sent + 1
    [envelope] = [d.envelope for d in services.mailboxes[new.address]]
    assert envelope


async def test_a_record_that_goes_back_is_refused_and_kept_as_evidence(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    old = services.realm.statement("bob")
    await bob.client.renew()
    await alice.client.send("bob", "one")
    clock.advance(HOUR)

    def older(username: str, info: pb.KeyInfo) -> pb.KeyInfo:
        if username != "bob":
            return info
        changes = {"revision": old.revision}
        keys = services.realm.users["bob"].keys
        services.realm.users["bob"].keys = keys[:1]
        try:
            return services.realm.key_info("bob", **changes)
        finally:
            services.realm.users["bob"].keys = keys

    services.serve_key_info = older
    with pytest.raises(RecordRegressedError):
        await alice.client.send("bob", "two")
    evidence = await alice.client._parts.context.store.run(lambda store: store.records.evidence("bob"))
    assert [row.reason for row in evidence] == ["RECORD_REGRESSED"]


async def test_a_copy_of_the_directory_that_is_behind_what_is_held_is_no_step_back(
    alice: Any, bob: Any, services: Services
) -> None:
    behind = services.realm.key_info("bob")
    await bob.client.renew()
    held = await alice.client.keys("bob")

    def from_a_copy(username: str, info: pb.KeyInfo) -> pb.KeyInfo:
        asked = services.requests["GetKeyInfo"][-1]
        return behind if username == "bob" and asked.min_revision < held.revision else info

    services.serve_key_info = from_a_copy
    assert (await alice.client._parts.records.get("bob", refresh=True)).revision == held.revision
    assert (await alice.client.accept_identity("bob", held.keys[0].fingerprint)).revision == held.revision
    assert await alice.client._parts.context.store.run(lambda store: store.records.evidence("bob")) == ()
    assert alice.reasons() == []


async def test_two_records_of_one_revision_are_refused(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "one")
    services.realm.set_state(bob.client._parts.identity.current, pb.KEY_STATE_REVOKED, pb.REVOCATION_REASON_LOST)
    clock.advance(HOUR)
    with pytest.raises(EquivocationError):
        await alice.client.send("bob", "two")


@pytest.mark.usefixtures("bob")
async def test_an_expired_record_is_not_relied_upon(alice: Any, services: Services, clock: ManualClock) -> None:
    held = services.realm.key_info("bob")
    clock.advance(HOUR)
    services.serve_key_info = lambda username, info: held if username == "bob" else info
    with pytest.raises(RecordExpiredError):
        await alice.client.send("bob", "one")


@pytest.mark.usefixtures("bob")
async def test_a_record_signed_by_nobody_is_refused(alice: Any, services: Services) -> None:
    def forged(username: str, info: pb.KeyInfo) -> pb.KeyInfo:
        if username == "bob":
            info.record.signature = bytes(64)
        return info

    services.serve_key_info = forged
    with pytest.raises(SignatureInvalidError):
        await alice.client.send("bob", "one")


@pytest.mark.usefixtures("bob")
async def test_records_are_asked_for_once_while_they_are_fresh(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "one")
    asked = len(services.requests["GetKeyInfo"])
    clock.advance(HOUR - 1)
    await alice.client.send("bob", "two")
    assert len(services.requests["GetKeyInfo"]) == asked
    clock.advance(1)
    await alice.client.send("bob", "three")
    assert len(services.requests["GetKeyInfo"]) == asked + 2


@pytest.mark.usefixtures("bob")
async def test_pins_survive_a_restart(alice: Any, services: Services, clock: ManualClock, open_client: Any) -> None:
    await alice.client.send("bob", "one")
    await alice.client.close()
    services.realm.reset("bob")
    clock.advance(HOUR)
    again = await open_client("alice", bundle=None)
    with pytest.raises(IdentityChangedError):
        await again.client.send("bob", "two")


async def test_the_strong_suite_is_the_default(alice: Any) -> None:
    assert (await alice.client.devices()).keys[0].suite is STRONG


async def test_times_arrow_holds_though_the_record_was_pushed_out_of_memory(
    alice: Any, bob: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = services.realm.key_info("bob")
    await bob.client.renew()
    await alice.client.keys("bob")
    records = alice.client._parts.records
    fetch = records._directory.get_key_info

    async def pushing_out(username: str, **options: Any) -> pb.KeyInfo:
        answer = await fetch(username, **options)
        records._records.clear()
        return answer  # type: ignore[no-any-return]

    monkeypatch.setattr(records._directory, "get_key_info", pushing_out)
    services.serve_key_info = lambda name, info: old if name == "bob" else info
    with pytest.raises(RecordRegressedError):
        await alice.client.keys("bob")


async def test_locks_go_when_nobody_needs_them(alice: Any, bob: Any) -> None:
    await alice.client.send("bob", "one")
    with pytest.raises(RefusedError):
        await alice.client.keys("nobody")
    assert bob.client.address
    for locks in (alice.client._parts.records._locks, alice.client._parts.sending._locks):
        assert len(locks) == 0
    assert locks.of("bob") is not locks.of("carol")


async def test_each_side_of_a_negotiation_verifies_the_other_by_its_own_step(
    alice: Any, bob: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = negotiation.step_8_obtain_sender_key_info

    def step_8(key_info: pb.KeyInfo, **options: Any) -> Any:
        seen.append(options["username"])
        return real(key_info, **options)

    monkeypatch.setattr("keypost.client.look_ups.step_8_obtain_sender_key_info", step_8)
    await alice.client.send("bob", "one")
    assert seen == []
    await bob.inbox()
    assert seen == ["alice"]


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


async def test_a_successor_that_has_ended_since_shows_a_theft_too(alice: Any, services: Services) -> None:
    stolen = services.realm.renew(alice.client._parts.identity.current)
    services.realm.revoke(stolen)
    with pytest.raises(DeviceKeyStolenError):
        await alice.client._parts.records.learn("alice", services.realm.key_info("alice"))


async def test_a_renewal_whose_answer_was_lost_is_no_theft(alice: Any, services: Services) -> None:
    services.lost_answers["Renew"] = 5
    with pytest.raises(UnreachableError):
        await alice.client.renew()
    record = await alice.client._parts.records.learn("alice", services.realm.key_info("alice"))
    assert len(record.keys) == 2
    await alice.client.renew()
    assert (await alice.client.devices()).revision == 2


async def test_an_approval_by_the_own_key_is_no_theft(alice: Any, services: Services) -> None:
    services.realm.approve(alice.client._parts.identity.current)
    await alice.client._parts.records.learn("alice", services.realm.key_info("alice"))
    await alice.client.renew()
    assert len((await alice.client.devices()).good_keys(services.realm.clock())) == 2


async def test_the_end_of_a_key_is_reckoned_by_the_clock_of_the_ca(
    open_client: Any, services: Services, clock: ManualClock
) -> None:
    carol = await open_client("carol", clock=lambda: clock() + 4 * MINUTE)
    await carol.client.enroll("carol")
    await carol.client.renew()
    assert {key.expire_time for key in services.realm.users["carol"].keys} == {clock() + 90 * DAY}


async def test_a_message_stays_in_the_outbox_unless_it_was_refused_itself(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    async def unexpected(context: Any) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "a proxy says so")

    services.faults["Send"] = [unexpected]
    with pytest.raises(RefusedError, match="unexpected"):
        await alice.client.send("bob", "one")
    assert alice.reasons("waiting") == ["UNEXPECTED_ANSWER"]
    services.faults["Send"] = [unexpected]
    with pytest.raises(RefusedError):
        await alice.client.send("bob", "never taken: the first one still waits")
    await bob.client.renew()
    real = services.realm.key_info

    def of_the_past(name: str, **changes: Any) -> Any:
        past = {"this_update": clock() - MINUTE, "next_update": clock()}
        return real(name, **(past if name == "bob" else changes))

    clock.advance(2 * MINUTE)
    services.realm.key_info = of_the_past  # type: ignore[assignment,method-assign]
    with pytest.raises(RecordExpiredError):
        await alice.client.send("bob", "not taken either")
    services.realm.key_info = real  # type: ignore[method-assign]
    sent = await alice.client.send("bob", "two")
    assert sent.counter == 2
    assert [message.text for message in await bob.inbox()] == ["one", "two"]


async def test_a_message_that_was_refused_is_not_kept(alice: Any, bob: Any, services: Services) -> None:
    services.faults["Send"] = [failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "MAILBOX_FULL")]
    with pytest.raises(RefusedError):
        await alice.client.send("bob", "one")
    assert alice.reasons("waiting") == []
    await alice.client.send("bob", "two")
    assert [message.text for message in await bob.inbox()] == ["two"]


async def test_a_key_of_the_peer_that_expires_makes_a_new_session(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    realm = services.realm
    pair = realm.new_pair(realm.new_address("bob"))
    own = bob.client._parts.identity.current
    short = realm.signed_request(pair, pb.KEY_REQUEST_KIND_APPROVE, own, expire_time=clock() + 30 * MINUTE)
    realm.record(short)
    await bob.client.keys("bob")
    first = await bob.client.send("alice", "a session of Bob's")
    await alice.inbox()
    answer = await alice.client.send("bob", "sealed to two devices")
    assert answer.key_id == first.key_id
    clock.advance(31 * MINUTE)
    later = await alice.client.send("bob", "sealed to one device")
    assert later.new_session
    assert len(services.requests["Send"][-1].envelope.key_extension.sealed_keys) == 1
    assert [message.text for message in await bob.inbox()] == ["sealed to two devices", "sealed to one device"]
