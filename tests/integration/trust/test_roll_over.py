"""Record keys and root keys roll over while people talk: real services, real clients, no message fails or is lost."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from keypost.clock import DAY, HOUR, MINUTE
from keypost.errors import InvalidArgumentError
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.encoding import fingerprint
from keypost_services.ca.audit import BEGINNING, Action, verify_chain
from keypost_services.ca.database import open_store_as_it_is
from keypost_services.ca.trust.key_files import load_public_keys
from keypost_services.directory.compose import compose as compose_directory
from keypost_services.runtime.serving import running
from support.delivery import until
from support.keys import KeyPool
from support.plain_stack import PlainStack, open_plain_stack
from support.realm import seeded_signer
from support.roll_over import Operator, bundle_of, open_client, talking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from keypost.client import Client


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[PlainStack]:
    async with open_plain_stack(tmp_path, realm_poll_seconds=0.02) as opened:
        yield opened


async def signer_of(client: Client, username: str) -> bytes:
    """Return the fingerprint of the record key that signed the newest record of a user."""
    return (await client.keys(username)).key_info.record.record_key_fingerprint


async def test_a_record_key_rolls_over_and_nobody_notices(stack: PlainStack) -> None:
    operator = Operator(stack)
    (old,) = operator.trust.record_keys
    async with talking(stack) as (traffic, tasks):
        new_der = operator.new_record_key()
        new = fingerprint(new_der)
        await operator.install(new_record_keys=[listed(new_der, stack.ca.clock() + 3 * HOUR)])
        await traffic.flow(tasks)
        for _ in range(3):
            assert await signer_of(traffic.alice, "bob") == old.fingerprint
            await traffic.advance(HOUR)
            await traffic.flow(tasks)
        # In force, and not used before clocks that are behind have come so far.
        assert await signer_of(traffic.alice, "bob") == old.fingerprint
        await traffic.advance(HOUR + 6 * MINUTE)
        await traffic.flow(tasks)
        assert await signer_of(traffic.alice, "bob") == new
        await operator.install(retired_record_keys=[old.fingerprint.hex()])
        await traffic.flow(tasks)
        await traffic.advance(HOUR)
        await traffic.flow(tasks)
        assert await signer_of(traffic.bob, "alice") == new
        assert traffic.alice._parts.trust.held.sequence == 3
    assert (await told_of_the_realm(stack))[2:] == [
        (Action.TRUST_INSTALLED, 2),
        (Action.RECORD_KEY_ADDED, new),
        (Action.TRUST_INSTALLED, 3),
        (Action.RECORD_KEY_RETIRED, old.fingerprint),
    ]


async def told_of_the_realm(stack: PlainStack) -> list[tuple[str, int | bytes]]:
    """Return what the audit log tells of the realm's own keys, but for its first entry: statements, and keys."""
    async with open_store_as_it_is(f"sqlite:///{stack.ca.folder / 'ca.db'}") as store:
        entries = await store.list_audit_entries(0, 1_000)
    verify_chain(BEGINNING, entries)
    acts = [entry.act for entry in entries if not entry.act.username]
    assert all(act.peer.startswith("host:") for act in acts)
    return [(act.action, act.revision if act.evidence else act.fingerprint) for act in acts[1:]]


def listed(public_key_der: bytes, from_time: int) -> pb.RecordKey:
    return pb.RecordKey(public_key_der=public_key_der, from_time=from_time, until_time=from_time + 300 * DAY)


async def test_a_record_key_that_was_stolen_is_retired_at_once(stack: PlainStack) -> None:
    operator = Operator(stack)
    (stolen,) = operator.trust.record_keys
    async with talking(stack) as (traffic, tasks):
        new_der, now = operator.new_record_key(), stack.ca.clock()
        await traffic.advance(MINUTE)
        await operator.install(new_record_keys=[listed(new_der, now)], retired_record_keys=[stolen.fingerprint.hex()])
        assert await signer_of(traffic.alice, "bob") == fingerprint(new_der)
        await traffic.flow(tasks)
        await traffic.advance(HOUR)
        await traffic.flow(tasks)
        for client in (traffic.alice, traffic.bob):
            assert not client._parts.trust.vouches_for(stolen.fingerprint)


async def test_a_root_key_rolls_over_and_nobody_is_left_behind(stack: PlainStack) -> None:
    operator = Operator(stack)
    (old_root,) = operator.trust.root_keys
    old_bundle, keys = bundle_of(stack, old_root), KeyPool()
    async with AsyncExitStack() as exits, talking(stack, keys) as (traffic, tasks):
        for name in ("carol", "dave"):  # two who are away all the time
            away = await open_client(stack, name, old_bundle, keys)
            await away.enroll(name)
            await away.close()
        new_root_file = operator.new_root_key()
        new_root = new_root_file.with_suffix(".pem")
        added = await operator.install(new_root_keys=load_public_keys(new_root))
        assert len(added.root_keys) == 2
        await traffic.advance(HOUR)
        await traffic.flow(tasks)
        operator.root_key, operator.known_roots = new_root_file, (operator.files.root_public,)
        removed = await operator.install(removed_root_keys=[fingerprint(old_root).hex()])
        assert removed.root_keys == load_public_keys(new_root)
        await traffic.advance(HOUR)
        await traffic.flow(tasks)
        operator.known_roots = ()
        third = await operator.install()
        await traffic.advance(HOUR)
        await traffic.flow(tasks)
        assert third.sequence == 4
        assert traffic.alice._parts.trust.held.sequence == 4
        await _a_directory_starts_from_the_old_bundle(stack, exits)
        carol = await exits.enter_async_context(await open_client(stack, "carol", None, keys))
        await carol.send("alice", "back again")
        dave = await exits.enter_async_context(
            await open_client(stack, "dave", bundle_of(stack, *load_public_keys(new_root)), keys)
        )
        assert dave._parts.trust.held.sequence == 4
        newcomer = await exits.enter_async_context(await open_client(stack, "erin", old_bundle, keys))
        assert newcomer._parts.trust.held.sequence == 4
        assert (await told_of_the_realm(stack))[2:] == [
            (Action.TRUST_INSTALLED, 2),
            (Action.ROOT_KEY_ADDED, fingerprint(load_public_keys(new_root)[0])),
            (Action.TRUST_INSTALLED, 3),
            (Action.ROOT_KEY_REMOVED, fingerprint(old_root)),
            (Action.TRUST_INSTALLED, 4),
        ]
        await dave.close()
        with pytest.raises(InvalidArgumentError, match="other root keys"):
            await open_client(stack, "dave", old_bundle, keys)
        stranger = bundle_of(stack, *load_public_keys(new_root), seeded_signer(9).public_key_der)
        with pytest.raises(InvalidArgumentError, match="other root keys"):
            await open_client(stack, "dave", stranger, keys)


async def _a_directory_starts_from_the_old_bundle(stack: PlainStack, exits: AsyncExitStack) -> None:
    settings = stack.directory.runtime.settings
    again = await exits.enter_async_context(running("directory", settings, compose_directory, clock=stack.ca.clock))
    assert "trust" not in again.runtime.health.degraded


async def test_a_file_that_is_no_successor_is_refused_and_the_old_statement_goes_on(stack: PlainStack) -> None:
    operator = Operator(stack)
    async with talking(stack) as (traffic, tasks):
        before = operator.files.realm_trust.read_bytes()
        await operator.install()
        for times, content in enumerate((before, b"{", b""), 1):
            operator.files.realm_trust.write_bytes(content)
            await until(lambda times=times: operator.refused_by_ca() == times)  # type: ignore[misc]
            assert "realm" in stack.ca.service.runtime.health.degraded
            await traffic.flow(tasks)
        assert (await stack.ca.trust_of_clients()).sequence == operator.served_by_ca() == 2
        assert (await told_of_the_realm(stack))[2:] == [(Action.TRUST_INSTALLED, 2)]


async def test_the_constants_of_a_new_statement_are_gone_by_at_once(stack: PlainStack) -> None:
    operator = Operator(stack)
    async with talking(stack) as (traffic, tasks):
        await operator.install(constants={"record_lifetime": "30m", "retention": "90d"})
        await traffic.advance(HOUR)
        await traffic.flow(tasks)
        record = await traffic.alice.keys("bob")
        assert record.next_update - record.this_update == 30 * MINUTE
        assert traffic.alice._parts.trust.held.constants.retention == 90 * DAY


async def test_a_statement_whose_record_key_begins_in_a_moment_is_taken_up_then(stack: PlainStack) -> None:
    operator = Operator(stack)
    (old,) = operator.trust.record_keys
    async with talking(stack) as (traffic, tasks):
        new_der = operator.new_record_key()
        edits = {
            "new_record_keys": [listed(new_der, stack.ca.clock() + MINUTE)],
            "retired_record_keys": [old.fingerprint.hex()],
        }
        operator.install_file(edits, force=True)
        await until(lambda: operator.refused_by_ca() == 1)
        await traffic.flow(tasks)
        await traffic.advance(MINUTE)
        assert (await operator.until_served()).sequence == 2
        await traffic.flow(tasks)
        assert await signer_of(traffic.alice, "bob") == fingerprint(new_der)
        assert "realm" not in stack.ca.service.runtime.health.degraded
