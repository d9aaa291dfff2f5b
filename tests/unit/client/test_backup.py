"""A backup is restored elsewhere: the restored copy takes over, the other one stops, and nothing is lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost import BackupStaleError, InvalidArgumentError, NotEnrolledError, Passphrase, restore_profile
from keypost.client.receiving import Arrival
from keypost.clock import DAY, HOUR
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.errors import RefusedError
from keypost.keys.v1.key_info_pb2 import REVOCATION_REASON_RESET
from keypost.keystore.counters import COUNT
from keypost.keystore.errors import BackupExistsError, BackupUnavailableError, KeyStoreExistsError
from keypost.protocol.errors import DeviceKeyStolenError
from keypost.protocol.key_info import REVOKED
from keypost.protocol.tokens import peek_token
from support.chains import Chain
from support.people import CHEAP, FOR_EVER, IMPATIENT, Person
from support.realm import seeded_signer
from support.simulation import failing
from support.surfaces import asyncio_only

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from keypost.keys.v1.realm_trust_pb2 import Bundle
    from keypost.protocol.identifiers import Address
    from support.clock import ManualClock
    from support.simulation import Services

BACKUP = Passphrase("another one", CHEAP.cost)
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@dataclass
class Hardware:
    """Backs profiles up and restores them elsewhere."""

    folder: Path
    open_client: Callable[..., Awaitable[Person]]

    @property
    def file(self) -> Path:
        return self.folder / "a.backup"

    async def back_up(self, person: Person) -> None:
        await person.client.backup(self.file, BACKUP)

    async def restore(self, name: str = "elsewhere", *, by: Bundle | None = None, **options: Any) -> Person:
        profile = self.folder / name
        await asyncio.to_thread(restore_profile, self.file, profile, passphrase=BACKUP, unlock=CHEAP, bundle=by)
        return await self.open_client(name, bundle=None, **options)


@pytest.fixture
def hardware(tmp_path: Path, open_client: Any) -> Hardware:
    return Hardware(tmp_path, open_client)


async def texts(person: Person) -> list[str]:
    return [message.text for message in await person.inbox()]


def fingerprint(person: Person) -> bytes:
    value: bytes = person.client._parts.identity.current.fingerprint
    return value


def reset_all_keys(services: Services, username: str) -> None:
    """Have the CA begin a new epoch at the next enrolment."""
    user = services.realm.users[username]
    user.epoch += 1
    user.keys = tuple(
        replace(key, state=REVOKED, state_time=services.realm.clock(), reason=REVOCATION_REASON_RESET)
        for key in user.keys
    )


async def test_unread_mail_is_read_on_new_hardware_and_the_old_copy_stops(
    alice: Any, bob: Any, hardware: Hardware
) -> None:
    await alice.client.send("bob", "before the backup")
    await hardware.back_up(bob)
    await alice.client.send("bob", "after it")
    again = await hardware.restore()
    assert again.client.address == bob.client.address
    assert "RESTORED" in again.reasons("info")
    assert await texts(again) == ["before the backup", "after it"]
    with pytest.raises(DeviceKeyStolenError, match="unless you restored its backup elsewhere"):
        await bob.client.send("alice", "from the old copy")
    with pytest.raises(DeviceKeyStolenError):
        await bob.inbox()
    await again.client.send("alice", "from the new one")
    assert await texts(alice) == ["from the new one"]


async def test_what_the_old_copy_has_is_not_lost_and_comes_twice_to_neither(
    alice: Any, bob: Any, hardware: Hardware
) -> None:
    await alice.client.send("bob", "one")
    await hardware.back_up(bob)
    assert await texts(bob) == ["one"]
    await alice.client.send("bob", "two")
    again = await hardware.restore()
    await alice.client.send("bob", "three")
    assert await texts(again) == ["two", "three"]
    assert await texts(again) == []


async def test_an_answer_under_a_session_that_the_old_copy_made_after_the_backup_opens(
    alice: Any, bob: Any, hardware: Hardware
) -> None:
    await hardware.back_up(bob)
    sent = await bob.client.send("alice", "under a session that is not in the backup")
    assert await texts(alice) == ["under a session that is not in the backup"]
    answer = await alice.client.send("bob", "under the same")
    assert answer.key_id == sent.key_id
    again = await hardware.restore()
    assert await texts(again) == ["under the same"]
    assert again.reasons("set_aside") == []


async def test_counters_are_never_used_twice_and_what_is_missed_is_told_honestly(
    alice: Any, bob: Any, hardware: Hardware, services: Services
) -> None:
    await bob.client.send("alice", "1")
    await hardware.back_up(bob)
    await bob.client.send("alice", "2, which the backup does not know")
    again = await hardware.restore()
    third = await again.client.send("alice", "3")
    assert third.counter == COUNT + 1
    services.mailboxes[alice.client.address].pop(1)
    services.mailboxes[alice.client.address].pop(1)
    await again.client.send("alice", "4")
    received = await alice.inbox()
    assert [(message.text, message.missed) for message in received] == [("1", 0), ("4", 1)]
    assert alice.reasons("warning") == []


async def test_a_conversation_that_is_not_in_the_backup_counts_anew_too(
    alice: Any, bob: Any, hardware: Hardware
) -> None:
    await hardware.back_up(bob)
    await bob.client.send("alice", "1")
    again = await hardware.restore()
    assert (await again.client.send("alice", "2")).counter == COUNT + 1
    assert await texts(alice) == ["1", "2"]
    assert alice.reasons("warning") == []


@pytest.mark.usefixtures("alice")
async def test_what_waits_in_the_outbox_goes_out_once(
    bob: Any, alice: Any, hardware: Hardware, services: Services
) -> None:
    await bob.client.close()
    bob = await hardware.open_client("bob", bundle=None, retries=IMPATIENT)
    services.faults["Send"] = [failing(UNAVAILABLE, "MAILBOXES_UNAVAILABLE")] * FOR_EVER
    with pytest.raises(RefusedError):
        await bob.client.send("alice", "from the outbox")
    await hardware.back_up(bob)
    services.faults["Send"] = []
    await bob.client.send("alice", "from the old copy")
    again = await hardware.restore()
    await again.client.send("alice", "from the new one")
    assert await texts(alice) == ["from the outbox", "from the old copy", "from the new one"]


async def test_nothing_else_is_done_before_the_renewal(
    alice: Any, bob: Any, hardware: Hardware, services: Services
) -> None:
    await alice.client.send("bob", "unread")
    await hardware.back_up(bob)
    services.faults["Renew"] = [failing(UNAVAILABLE, "KEYS_CHANGING")] * 999
    again = await hardware.restore()
    assert "KEYS_CHANGING" in again.reasons("warning")
    asked = len(services.requests["Receive"]), len(services.requests["Send"]), len(services.requests["GetKeyInfo"])
    for call in (
        lambda: again.client.send("alice", "no"),
        lambda: again.client.rotate("alice"),
        lambda: again.client.keys("alice"),
        again.client.devices,
        again.client.retry_set_aside,
        again.client.waiting_elsewhere,
        again.client.renew,
        again.inbox,
    ):
        with pytest.raises(RefusedError, match="KEYS_CHANGING"):
            await call()
    now_asked = len(services.requests["Receive"]), len(services.requests["Send"]), len(services.requests["GetKeyInfo"])
    assert now_asked[:2] == asked[:2]
    assert await again.client.evidence("alice") == ()
    services.faults["Renew"] = []
    before = fingerprint(again)
    key = await again.client.renew()
    assert fingerprint(again) == key.fingerprint != before
    assert await texts(again) == ["unread"]


async def test_a_restored_copy_takes_over_at_its_next_start(bob: Any, hardware: Hardware, services: Services) -> None:
    await hardware.back_up(bob)
    services.lost_answers["Renew"] = 40
    again = await hardware.restore()
    assert "UNREACHABLE" in again.reasons("warning")
    await again.client.close()
    services.lost_answers["Renew"] = 0
    later = await hardware.open_client("elsewhere", bundle=None)
    assert "RESTORED" in later.reasons("info")
    with pytest.raises(DeviceKeyStolenError):
        await bob.client.renew()


async def test_a_pair_that_was_pending_is_recorded_and_then_replaced(
    alice: Any, bob: Any, hardware: Hardware, services: Services
) -> None:
    services.faults["Renew"] = [failing(UNAVAILABLE, "SHUTTING_DOWN") for _ in range(5)]
    with pytest.raises(RefusedError):
        await bob.client.renew()
    pending = bob.client._parts.identity.ring.pending.fingerprint
    await hardware.back_up(bob)
    await alice.client.send("bob", "sealed to the first key")
    again = await hardware.restore()
    assert fingerprint(again) != pending
    assert pending in [pair.fingerprint for pair in again.client._parts.identity.ring.replaced]
    assert await texts(again) == ["sealed to the first key"]
    with pytest.raises(DeviceKeyStolenError):
        await bob.client.renew()


async def test_a_stale_backup_restores_history_and_enrols_anew_when_asked_to(
    alice: Any, bob: Any, hardware: Hardware, services: Services
) -> None:
    await alice.client.send("bob", "an old message")
    iterator = bob.client.receive(follow=False)
    await anext(iterator)
    await iterator.aclose()
    await hardware.back_up(bob)
    await bob.client.renew()
    again = await hardware.restore()
    assert "BACKUP_STALE" in again.reasons("error")
    messages = again.client.receive(follow=False)
    assert (await anext(messages)).text == "an old message"
    with pytest.raises(BackupStaleError):
        await anext(messages)
    for call in (lambda: again.client.send("alice", "no"), again.client.renew, lambda: again.client.keys("alice")):
        with pytest.raises(BackupStaleError):
            await call()
    assert len(services.realm.users["bob"].keys) == 2
    with pytest.raises(InvalidArgumentError, match="another profile"):
        await again.client.enroll("carol")
    await bob.client.send("alice", "the old copy goes on")
    assert await texts(alice) == ["the old copy goes on"]


async def test_a_stale_copy_becomes_a_device_of_its_own(
    alice: Any, bob: Any, hardware: Hardware, services: Services
) -> None:
    await alice.client.send("bob", "hello")
    await hardware.back_up(bob)
    await bob.client.renew()
    again = await hardware.restore()
    old = again.client.address
    reset_all_keys(services, "bob")
    address = await again.client.enroll("bob")
    assert address != old
    assert address == again.client.address
    assert (await again.client.devices()).epoch == 2
    await again.client.close()
    later = await hardware.open_client("elsewhere", bundle=None)
    assert (await later.client.devices()).epoch == 2


async def test_what_a_stale_backup_would_send_is_told_and_not_sent(
    alice: Any, bob: Any, hardware: Hardware, services: Services
) -> None:
    await bob.client.close()
    bob = await hardware.open_client("bob", bundle=None, retries=IMPATIENT)
    services.faults["Send"] = [failing(UNAVAILABLE, "MAILBOXES_UNAVAILABLE")] * FOR_EVER
    with pytest.raises(RefusedError):
        await bob.client.send("alice", "perhaps sent")
    await hardware.back_up(bob)
    await bob.client.close()
    services.faults["Send"] = []
    bob = await hardware.open_client("bob", bundle=None)
    assert await bob.client.flush() == (), "the other copy sends it"
    await bob.client.renew()
    again = await hardware.restore()
    given_up = [event for event in again.events if dict(event.facts) == {"recipient": "alice"}]
    assert [(event.kind, event.reason) for event in given_up] == [("error", "BACKUP_STALE")]
    assert {sender for sender, _ in services.sent} == {bob.client.address}
    assert await texts(alice) == ["perhaps sent"]


async def test_a_backup_before_enrolment_never_gives_two_copies_one_key(
    hardware: Hardware, open_client: Any, services: Services
) -> None:
    first = await open_client("first")
    services.faults["Enroll"] = [failing(UNAVAILABLE, "SHUTTING_DOWN")] * 9
    with pytest.raises(RefusedError):
        await first.client.enroll("dora")
    await hardware.back_up(first)
    services.faults["Enroll"] = []
    await first.client.enroll("dora")
    again = await hardware.restore()
    assert again.client.address == first.client.address
    assert fingerprint(again) != fingerprint(first)
    with pytest.raises(DeviceKeyStolenError):
        await first.client.renew()


async def test_a_backup_of_a_profile_without_a_key_is_a_profile_without_one(
    hardware: Hardware, open_client: Any
) -> None:
    first = await open_client("first")
    await hardware.back_up(first)
    again = await hardware.restore()
    with pytest.raises(NotEnrolledError):
        await again.inbox()
    await again.client.enroll("dora")
    assert (await again.client.devices()).username == "dora"


async def test_a_backup_that_is_kept_is_rewritten_before_each_renewal(
    alice: Any, bob: Any, hardware: Hardware, clock: ManualClock
) -> None:
    await bob.client.set_backup(hardware.file, BACKUP)
    for _ in range(2):
        await alice.client.send("bob", "unread")
        before = hardware.file.read_bytes()
        await bob.client.renew()
        assert hardware.file.read_bytes() != before
        clock.advance(DAY)
    again = await hardware.restore()
    assert await texts(again) == ["unread", "unread"]
    with pytest.raises(DeviceKeyStolenError):
        await bob.client.renew()


async def test_a_backup_is_rewritten_with_the_pending_pair_before_the_ca_is_asked(
    bob: Any, hardware: Hardware, services: Services
) -> None:
    await bob.client.set_backup(hardware.file, BACKUP)
    before, at_the_ca = hardware.file.read_bytes(), []

    async def look(_context: Any) -> None:
        at_the_ca.append(hardware.file.read_bytes())

    services.faults["Renew"] = [look]
    key = await bob.client.renew()
    assert at_the_ca[0] != before
    assert hardware.file.read_bytes() == at_the_ca[0]
    again = await hardware.restore()
    assert key.fingerprint in [pair.fingerprint for pair in again.client._parts.identity.ring.replaced]


async def test_a_renewal_waits_for_its_backup_until_the_key_is_about_to_expire(
    bob: Any, hardware: Hardware, clock: ManualClock, open_client: Any
) -> None:
    await open_client("alice")
    await bob.client.set_backup(hardware.file, BACKUP)
    hardware.file.write_bytes(b"something else")
    with pytest.raises(BackupExistsError):
        await bob.client.renew()
    old = fingerprint(bob)
    clock.advance(61 * DAY)
    await bob.client.devices()
    await bob.client._parts.renewing.renew_if_due()
    assert "BACKUP_EXISTS" in bob.reasons("warning")
    assert fingerprint(bob) == old
    clock.advance(21 * DAY)
    await bob.client._parts.renewing.renew_if_due()
    assert "BACKUP_EXISTS" in bob.reasons("error")
    assert fingerprint(bob) != old
    assert hardware.file.read_bytes() == b"something else"


async def test_a_backup_that_is_no_longer_kept_is_left_alone(bob: Any, hardware: Hardware) -> None:
    await bob.client.set_backup(hardware.file, BACKUP)
    await bob.client.set_backup(None)
    before = hardware.file.read_bytes()
    await bob.client.renew()
    assert hardware.file.read_bytes() == before


async def test_a_restored_profile_keeps_no_backup_at_the_old_place(bob: Any, hardware: Hardware) -> None:
    await bob.client.set_backup(hardware.file, BACKUP)
    again = await hardware.restore()
    assert await again.client._parts.backing_up.kept() is None


async def test_nothing_is_overwritten_and_a_place_that_is_none_is_told(bob: Any, hardware: Hardware) -> None:
    await hardware.back_up(bob)
    before = hardware.file.read_bytes()
    with pytest.raises(BackupExistsError):
        await hardware.back_up(bob)
    with pytest.raises(BackupUnavailableError):
        await bob.client.backup(hardware.folder / "nowhere" / "a.backup", BACKUP)
    with pytest.raises(InvalidArgumentError):
        await bob.client.backup(hardware.folder / "b.backup", Passphrase(""))
    with pytest.raises(InvalidArgumentError):
        await bob.client.backup(hardware.folder / "b.backup", "text")
    assert hardware.file.read_bytes() == before
    assert sorted(path.name for path in hardware.folder.iterdir() if path.is_file()) == ["a.backup"]
    with pytest.raises(KeyStoreExistsError):
        restore_profile(hardware.file, hardware.folder / "bob", passphrase=BACKUP, unlock=CHEAP)


async def test_the_client_works_while_it_is_backed_up_and_progress_is_told(
    alice: Any, bob: Any, hardware: Hardware
) -> None:
    told: list[tuple[int, int]] = []
    await asyncio.gather(
        bob.client.backup(hardware.file, BACKUP, progress=lambda *done: told.append(done)),
        alice.client.send("bob", "meanwhile"),
    )
    await asyncio.sleep(0)
    assert told[-1][0] == told[-1][1] > 0
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert await texts(await hardware.restore()) == ["meanwhile"]


async def test_a_device_that_is_told_that_its_key_was_replaced_asks_the_ca(
    alice: Any, bob: Any, services: Services
) -> None:
    refused = failing(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED", cause="KEY_SUPERSEDED")
    services.faults["GetKeyInfo"] = [refused] * 4
    old = fingerprint(bob)
    with pytest.raises(RefusedError, match="TOKEN_REFUSED"):
        await bob.client.keys("bob")
    assert fingerprint(bob) != old, "it was a lie, so the device renewed"
    services.faults["GetKeyInfo"] = [refused] * 4
    renewed = fingerprint(bob)
    with pytest.raises(RefusedError, match="TOKEN_REFUSED"):
        await bob.client.keys("bob")
    assert fingerprint(bob) == renewed, "a liar gets no renewal after another"
    assert alice.client.address is not None


async def test_a_backup_of_another_realm_is_refused(bob: Any, hardware: Hardware, services: Services, tls: Any) -> None:
    await hardware.back_up(bob)
    other = services.bundle(tls)
    other.realm = "other.org"
    with pytest.raises(InvalidArgumentError, match=r"this profile belongs to example.org"):
        restore_profile(hardware.file, hardware.folder / "new", passphrase=BACKUP, unlock=CHEAP, bundle=other)
    assert not (hardware.folder / "new").exists()


async def test_a_backup_from_before_a_roll_over_of_the_root_is_restored_by_the_new_bundle(
    alice: Any, bob: Any, hardware: Hardware, services: Services, tls: Any
) -> None:
    await hardware.back_up(bob)
    await alice.client.send("bob", "unread")
    old, new = services.realm.root, seeded_signer(77)
    bundle = services.bundle(tls)
    bundle.root_keys[0].public_key_der = new.public_key_der
    with pytest.raises(InvalidArgumentError, match="has other root keys"):
        # Nothing leads from the one to the other yet; it is the bundle of somebody else for all that is known.
        await hardware.restore(by=bundle)
    chain = Chain(services.realm, [services.realm.signed_trust()])
    chain.hand_over(old, new)
    services.trust, services.earlier = chain.served.signed, list(chain.served.earlier)
    again = await hardware.open_client("elsewhere", bundle=None)
    assert await texts(again) == ["unread"]
    await again.client.close()
    # From now on it goes by the new bundle, whichever it is opened with.
    for given in (None, bundle):
        later = await hardware.open_client("elsewhere", bundle=given)
        assert later.client.address == bob.client.address
        await later.client.close()


async def test_a_stale_copy_joins_anew_by_the_word_of_another_device(
    bob: Any, hardware: Hardware, services: Services
) -> None:
    await hardware.back_up(bob)
    await bob.client.renew()
    again = await hardware.restore()
    old = again.client.address
    request = await again.client.join((await bob.client.invite()).text)
    await bob.client.approve(request.text)
    address = await again.client.joined()
    assert address not in (old, bob.client.address)
    assert len((await again.client.devices()).good_keys(services.realm.clock())) == 2


async def test_a_stale_copy_joins_no_other_user(alice: Any, bob: Any, hardware: Hardware) -> None:
    await hardware.back_up(bob)
    await bob.client.renew()
    again = await hardware.restore()
    with pytest.raises(InvalidArgumentError, match="this profile is of bob"):
        await again.client.join((await alice.client.invite()).text)


async def test_a_copy_whose_key_was_revoked_meanwhile_is_stale(
    bob: Any, hardware: Hardware, services: Services
) -> None:
    await hardware.back_up(bob)
    services.realm.revoke(bob.client._parts.identity.current)
    again = await hardware.restore()
    assert "BACKUP_STALE" in again.reasons("error")


async def test_a_copy_whose_key_expired_too_long_ago_is_stale(bob: Any, hardware: Hardware, services: Services) -> None:
    await hardware.back_up(bob)
    services.faults["Renew"] = [failing(grpc.StatusCode.FAILED_PRECONDITION, "RENEWAL_WINDOW_OVER")]
    again = await hardware.restore()
    assert "BACKUP_STALE" in again.reasons("error")


async def test_a_copy_that_was_restored_before_moves_again(alice: Any, bob: Any, hardware: Hardware) -> None:
    await hardware.back_up(bob)
    second = await hardware.restore("second")
    await second.client.send("alice", "from the second")
    hardware.file.unlink()
    await hardware.back_up(second)
    third = await hardware.restore("third")
    assert (await third.client.send("alice", "from the third")).counter == 2 * COUNT + 1
    with pytest.raises(DeviceKeyStolenError):
        await second.client.renew()
    assert await texts(alice) == ["from the second", "from the third"]
    assert alice.reasons("warning") == []


def admit_replaced_keys(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have services judge tokens by records from before a renewal: its key event is still on its way."""

    async def caller(_service: str, context: Any) -> Address:
        token = dict(context.invocation_metadata())["authorization"].removeprefix("Bearer ")
        return peek_token(token).address

    monkeypatch.setattr(services, "caller", caller)


@pytest.mark.parametrize("suspect", [False, True])
@pytest.mark.parametrize("admitted", [False, True])
async def test_an_old_copy_leaves_in_the_mailbox_what_is_sealed_to_the_key_of_the_new_one(
    alice: Any,
    bob: Any,
    hardware: Hardware,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    *,
    admitted: bool,
    suspect: bool,
) -> None:
    await hardware.back_up(bob)
    await alice.client.send("bob", "to the old one")
    stream = bob.client.receive()
    assert (await anext(stream)).text == "to the old one"
    listening = asyncio.ensure_future(anext(stream))
    again = await hardware.restore()
    if admitted:
        admit_replaced_keys(services, monkeypatch)
    services.deliver = handed_out_often if suspect else services.deliver
    await alice.client.send("bob", "to the new one")
    async with asyncio.timeout(60):
        with pytest.raises(DeviceKeyStolenError):
            await listening
    assert bob.reasons("set_aside") == bob.reasons("waiting") == []
    assert await texts(again) == ["to the new one"]


def handed_out_often(delivery: pb.Delivery) -> pb.Delivery:
    told = pb.Delivery()
    told.CopyFrom(delivery)
    told.attempts = 3
    return told


@asyncio_only  # it reaches for a part of the client that gets another
@pytest.mark.parametrize("admitted", [False, True])
async def test_an_old_copy_that_learns_of_the_new_one_takes_in_nothing_more(
    alice: Any,
    bob: Any,
    hardware: Hardware,
    services: Services,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    admitted: bool,
) -> None:
    await alice.client.send("bob", "to the old one")
    await hardware.back_up(bob)
    await alice.client.send("bob", "to both")
    again = await hardware.restore()
    if admitted:
        admit_replaced_keys(services, monkeypatch)
    clock.advance(HOUR)
    with pytest.raises(DeviceKeyStolenError if admitted else RefusedError):
        await bob.client._parts.receiving.take(
            [Arrival(delivery.envelope, clock(), clock()) for delivery in services.mailboxes[bob.client.address]],
            bob.client._parts.waiting.settle_earlier,
        )
    assert bob.reasons("set_aside") == bob.reasons("waiting") == []
    assert await texts(again) == ["to the old one", "to both"]
