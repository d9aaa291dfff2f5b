"""Records of users: when they are asked for, what they are held against, and what is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import HOUR, MINUTE
from keypost.errors import RefusedError
from keypost.protocol import negotiation
from keypost.protocol.errors import (
    IdentityChangedError,
    RecordRegressedError,
    TreeBrokenError,
)
from support.lies import answer, deny, resigned
from support.realm import seeded_signer

if TYPE_CHECKING:
    from keypost.keys.v1 import key_info_pb2 as pb
    from support.clock import ManualClock
    from support.simulation import Services


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
    alice.client._parts.newer.clear()
    record = await alice.client.accept_identity("bob", root)
    assert record.epoch == 2
    assert alice.client._parts.newer.is_set()
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
    evidence = await alice.client.evidence("bob")
    assert [row.reason for row in evidence] == ["RECORD_REGRESSED"]


async def test_a_directory_that_is_a_moment_behind_is_asked_again_before_it_counts_as_a_step_back(
    alice: Any, bob: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keypost.client.records.MOMENT", 0.01)
    stale = [services.realm.key_info("bob")]
    await bob.client.renew()
    await alice.client.send("bob", "one")
    services.serve_key_info = lambda name, info: stale.pop() if name == "bob" and stale else info
    assert (await alice.client.keys("bob")).revision == 2
    assert stale == []
    assert await alice.client.evidence("bob") == ()


@pytest.mark.parametrize(
    ("ask", "username"),
    [
        (lambda client, name: client._parts.records.get(name, refresh=True), "bob"),
        (lambda client, name: client._parts.records.get_as_pending(name), "alice"),
        (lambda client, name: client.accept_identity(name, bytes(32)), "bob"),
    ],
    ids=["get", "get_as_pending", "accept_identity"],
)
@pytest.mark.usefixtures("bob")
async def test_whoever_denies_a_known_user_leaves_evidence_and_is_told(
    alice: Any, services: Services, ask: Any, username: str
) -> None:
    held, records = await alice.client.keys(username), alice.client._parts.records
    # Only one who is renewing has a pending key; who signs the tokens makes no difference here.
    records._pending_directory = records._directory
    deny(services, username)
    with pytest.raises(RecordRegressedError):
        await ask(alice.client, username)
    kept = await alice.client.evidence(username)
    previous = held.key_info.SerializeToString()
    assert [(row.reason, row.previous, row.current) for row in kept] == [("RECORD_REGRESSED", previous, b"")]
    assert [(event.reason, event.facts["username"]) for event in alice.events if event.kind == "error"] == [
        ("RECORD_REGRESSED", username)
    ]


async def test_a_user_who_was_never_seen_may_be_unknown(alice: Any) -> None:
    with pytest.raises(RefusedError) as refused:
        await alice.client.keys("carol")
    assert refused.value.reason == "USER_NOT_FOUND"
    assert await alice.client.evidence("carol") == ()
    assert alice.reasons("error") == []


@pytest.mark.usefixtures("bob")
async def test_a_record_that_is_refused_while_an_identity_is_accepted_is_kept_as_evidence(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    old = services.realm.statement("bob")
    await bob.client.renew()
    root = (await alice.client.keys("bob")).keys[0].fingerprint
    clock.advance(HOUR)
    old.this_update, old.next_update = clock(), clock() + HOUR
    answer(services, "bob", resigned(services.realm, old))
    with pytest.raises(RecordRegressedError):
        await alice.client.accept_identity("bob", root)
    evidence = await alice.client.evidence("bob")
    assert [row.reason for row in evidence] == alice.reasons("error") == ["RECORD_REGRESSED"]


@pytest.mark.usefixtures("bob")
async def test_a_key_that_was_slipped_in_as_a_second_root_is_kept_as_evidence(alice: Any, services: Services) -> None:
    held = await alice.client.keys("bob")
    services.realm.enroll("bob")
    slipped_in = services.realm.key_info("bob")
    answer(services, "bob", slipped_in)
    with pytest.raises(TreeBrokenError):
        await alice.client.keys("bob")
    [evidence] = await alice.client.evidence("bob")
    assert (evidence.reason, evidence.username) == ("TREE_BROKEN", "bob")
    assert (evidence.previous, evidence.current) == (
        held.key_info.SerializeToString(),
        slipped_in.SerializeToString(),
    )
    assert alice.reasons("error") == ["TREE_BROKEN"]


@pytest.mark.usefixtures("bob")
async def test_an_identity_is_accepted_under_a_record_key_that_was_rolled_over(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    root = (await alice.client.keys("bob")).keys[0].fingerprint
    services.realm.record_signer = seeded_signer(7)
    services.trust = services.realm.signed_trust(sequence=2)
    clock.advance(2 * MINUTE)
    assert alice.client._parts.trust.held.sequence == 1
    assert (await alice.client.accept_identity("bob", root)).username == "bob"
    assert alice.client._parts.trust.held.sequence == 2


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
    assert await alice.client.evidence("bob") == ()
    assert alice.reasons() == []


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
    for locks in (alice.client._parts.records._locks, alice.client._parts.files._locks):
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
