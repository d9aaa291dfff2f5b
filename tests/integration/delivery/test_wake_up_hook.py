"""The wake-up hook: a real gateway over HTTPS, a real Valkey, a replica over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web
from prometheus_client import CollectorRegistry

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.errors import KeypostError
from keypost_services.delivery.metrics import Metrics
from keypost_services.delivery.wake_up_hook.gateway import https_gateway
from keypost_services.delivery.wake_up_hook.hook import MOST_ATTEMPTS, Pace, WakeUpHook
from keypost_services.delivery.wake_up_hook.signature import read_secrets
from keypost_services.runtime.logs import make_logger
from support.clock import ManualClock
from support.delivery import until
from support.mailboxes import append, open_mailboxes, posting
from support.push_gateway import PushGateway, open_push_gateway, secret_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.delivery_world import World

PACE = Pace(lambda: 0.0, interval_seconds=0, first_pause_seconds=0.001)
HOOK = "keypost_delivery_hook_wake_ups_total"


@pytest_asyncio.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[PushGateway]:
    async with open_push_gateway(tmp_path) as gateway:
        yield gateway


@pytest_asyncio.fixture
async def told(world: World, gateway: PushGateway) -> World:
    """Alice and Bob, and a replica that tells the gateway."""
    await world.start(**gateway.settings())
    return world


async def test_a_device_that_is_not_connected_is_woken_with_its_address_and_a_count_alone(
    told: World, gateway: PushGateway
) -> None:
    await told.send("a secret")
    assert await gateway.until_told(1) == [
        {"realm": "example.org", "username": "bob", "device_id": told.bob_pair.address.device_id, "waiting": 1}
    ]
    await told.send("another")
    assert (await gateway.until_told(2))[1]["waiting"] == 2
    assert len(set(gateway.ids)) == 2, "each wake-up has a name of its own"


async def test_a_device_that_is_connected_is_not_woken(told: World, gateway: PushGateway) -> None:
    async with told.bob.receive() as stream:
        await stream.queue_empty()
        await told.send("heard at once")
        await stream.batch()
        carol = told.stack.realm.enroll("carol")
        await told.alice.send_text("carol")
        (first, *more) = await gateway.until_told(1)
        assert first["device_id"] == carol.address.device_id
        assert not more


async def test_a_device_that_leaves_what_it_was_woken_for_is_told_to_the_gateway(
    told: World, gateway: PushGateway
) -> None:
    async with told.bob.receive() as stream:
        await stream.queue_empty()
        await told.send("heard, and lost with the connection")
        await stream.batch()
    assert [(one["username"], one["waiting"]) for one in await gateway.until_told(1)] == [("bob", 1)]


async def test_a_device_that_leaves_for_another_stream_is_not_told(told: World, gateway: PushGateway) -> None:
    async with told.bob.receive() as stream:
        await stream.queue_empty()
        await told.send("heard")
        await stream.batch()
        async with told.bob.receive() as other:
            await other.batch()
            with pytest.raises(KeypostError, match="RECEIVER_DISPLACED"):
                await stream.finish()
            told.stack.realm.enroll("carol")
            await told.alice.send_text("carol")
            assert [one["username"] for one in await gateway.until_told(1)] == ["carol"]


async def test_a_message_whose_first_wake_up_was_lost_is_told_when_it_is_sent_again(
    world: World, gateway: PushGateway
) -> None:
    envelope = world.alice.envelope("bob")
    await world.alice.send(envelope)  # by a replica that told nobody
    await world.start(**gateway.settings())
    assert (await world.alice.send(envelope)).stored.duplicate
    assert (await gateway.until_told(1))[0]["username"] == "bob"


async def test_each_device_of_the_recipient_is_woken(told: World, gateway: PushGateway) -> None:
    tablet = told.stack.realm.approve(told.bob_pair)
    await told.alice.send_text("bob")
    devices = {one["device_id"] for one in await gateway.until_told(2)}
    assert devices == {told.bob_pair.address.device_id, tablet.address.device_id}


async def test_what_is_sent_by_stream_wakes_too(told: World, gateway: PushGateway) -> None:
    await told.alice.send_stream(pb.SendStreamRequest(envelopes=[told.alice.envelope("bob")]))
    assert (await gateway.until_told(1))[0]["username"] == "bob"


async def test_a_gateway_that_fails_is_tried_again_with_the_same_id(told: World, gateway: PushGateway) -> None:
    gateway.answers = [web.Response(status=503)]
    await told.send("a secret")
    await until(lambda: "hook" in told.degraded)
    await gateway.until_told(1)
    assert len(gateway.ids) == 2
    assert len(set(gateway.ids)) == 1
    await until(lambda: "hook" not in told.degraded)
    assert told.counted(HOOK, outcome="failed") == 1
    assert told.counted(HOOK, outcome="taken") == 1


async def test_a_replica_does_not_start_with_a_secret_that_is_none(world: World, gateway: PushGateway) -> None:
    gateway.secret_file.write_text("whsec_too short")
    with pytest.raises(Exception, match=r"HOOK_SECRET_FILE.*line 1 is no secret"):
        await world.start(**gateway.settings())


@contextlib.asynccontextmanager
async def open_hook(
    world: World, gateway: PushGateway, *, secret: str = secret_line(), **changes: Any
) -> AsyncIterator[tuple[WakeUpHook, CollectorRegistry, io.StringIO]]:
    """Open a hook on Bob's mailbox, in which one message waits; it runs until the context ends."""
    registry, output, numbers = CollectorRegistry(), io.StringIO(), itertools.count()
    secrets, tls = read_secrets(secret), ssl.create_default_context(cafile=gateway.roots)
    async with (
        open_mailboxes(world.stack.valkey.url) as opened,
        https_gateway(gateway.url, secrets, tls, ManualClock(), seconds=5) as https,
    ):
        await append(opened.mailboxes, posting(b"sealed", world.bob_pair.address, accept_time=world.stack.clock()))
        hook = WakeUpHook(
            opened.mailboxes,
            https,
            Metrics(registry),
            make_logger("delivery", "info", "json", output),
            realm="example.org",
            ids=lambda: f"wake-up-{next(numbers)}",
            pace=replace(PACE, **changes),
            on_change=lambda _: None,
        )
        running = asyncio.create_task(hook.run())
        try:
            yield hook, registry, output
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def outcome(metrics: CollectorRegistry, name: str) -> int:
    return int(metrics.get_sample_value(HOOK, {"outcome": name}) or 0)


async def test_a_device_is_woken_once_for_much_that_arrives_at_once(world: World, gateway: PushGateway) -> None:
    async with open_hook(world, gateway, interval_seconds=3600) as (hook, metrics, _):
        for _ in range(5):
            hook.unheard([world.bob_pair.address])
        await gateway.until_told(1)
        await until(lambda: outcome(metrics, "taken") == 1)
        hook.unheard([world.bob_pair.address])
        hook.unheard([world.alice_pair.address])
        await until(lambda: outcome(metrics, "needless") == 1)
    assert len(gateway.ids) == 1, "Bob is left alone for an hour; nothing waits for Alice"


async def test_a_gateway_that_refuses_is_left_alone(world: World, gateway: PushGateway) -> None:
    gateway.answers = [web.Response(status=400)]
    async with open_hook(world, gateway) as (hook, metrics, output):
        hook.unheard([world.bob_pair.address])
        await until(lambda: outcome(metrics, "refused") == 1)
    assert len(gateway.ids) == 1
    assert "wake-up refused" in output.getvalue()


async def test_a_gateway_that_always_fails_is_given_up(world: World, gateway: PushGateway) -> None:
    gateway.answers = [web.Response(status=500) for _ in range(MOST_ATTEMPTS)]
    async with open_hook(world, gateway, first_pause_seconds=1e-6) as (hook, metrics, _):
        hook.unheard([world.bob_pair.address])
        await until(lambda: outcome(metrics, "given_up") == 1)
        hook.unheard([world.bob_pair.address])
        await gateway.until_told(1)
    assert len(gateway.ids) == MOST_ATTEMPTS + 1


async def test_more_devices_than_may_be_pending_are_counted_as_dropped(world: World, gateway: PushGateway) -> None:
    async with open_hook(world, gateway, most_pending=1) as (hook, metrics, _):
        hook.unheard([world.bob_pair.address, world.alice_pair.address])
        assert outcome(metrics, "dropped") == 1
        await gateway.until_told(1)


async def test_what_is_pending_when_the_process_ends_is_tried_once_more(world: World, gateway: PushGateway) -> None:
    gateway.answers = [web.Response(status=503)]
    async with open_hook(world, gateway, first_pause_seconds=3600) as (hook, metrics, _):
        hook.unheard([world.bob_pair.address])
        await until(lambda: outcome(metrics, "failed") == 1)
        await hook.farewell()
    assert len(await gateway.until_told(1)) == 1


async def test_a_redirect_is_not_followed(world: World, gateway: PushGateway) -> None:
    gateway.answers = [web.Response(status=307, headers={"Location": "/elsewhere"})]
    async with open_hook(world, gateway) as (hook, metrics, _):
        hook.unheard([world.bob_pair.address])
        await until(lambda: outcome(metrics, "refused") == 1)
    assert gateway.elsewhere == 0


async def test_another_certificate_is_not_believed(world: World, gateway: PushGateway, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with open_push_gateway(tmp_path / "other") as other:
        gateway.url, believed = other.url, gateway.url
        async with open_hook(world, gateway) as (hook, metrics, _):
            hook.unheard([world.bob_pair.address])
            await until(lambda: outcome(metrics, "failed") >= 1)
        assert not other.ids
    gateway.url = believed


async def test_a_wake_up_signed_with_another_secret_is_refused_by_the_gateway(
    world: World, gateway: PushGateway
) -> None:
    async with open_hook(world, gateway, secret=f"whsec_{'A' * 32}") as (hook, metrics, output):
        hook.unheard([world.bob_pair.address])
        await until(lambda: outcome(metrics, "refused") == 1)
    assert not gateway.told
    assert "AAAA" not in output.getvalue()
