"""Methods called by whom they are not for; against all three services, by clients and services that are not ours."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from cryptography import x509

from keypost.directory.v1 import directory_service_pb2 as pb
from keypost.directory.v1.directory_service_pb2_grpc import DirectoryServiceStub, KeyEventServiceStub
from keypost_services.embedded.certificates import administrator_names, service_names
from keypost_services.runtime.method_table import METHODS, Callers
from support.attacks import check_told
from support.ca_service import REALM
from support.delivery import until
from support.plain_client import reason
from support.plain_world import PlainWorld
from support.refusals import refused, served
from support.service import error_info

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.x509 import GeneralName

    from support.delivery import Stack
    from support.plain_stack import PlainStack

OURS = {method: callers for method, callers in METHODS.items() if method.startswith("/keypost.")}
REFUSED = {"METHOD_NOT_ADMITTED", "TOKEN_REFUSED"}


def service_of(method: str) -> str:
    return method.split(".")[1]


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


async def answer(channel: grpc.aio.Channel, method: str, metadata: Sequence[tuple[str, str]] = ()) -> str:
    """Return the reason for which a method is refused, or nothing if the caller is admitted.

    The request is empty: who is admitted is refused for what it lacks, or answered.
    """
    call: Any = channel.stream_stream(method)(metadata=tuple(metadata), timeout=20)
    try:
        with contextlib.suppress(asyncio.InvalidStateError):  # it has been refused already; reading says so
            await call.write(b"")
            await call.done_writing()
        await call.read()
    except grpc.aio.AioRpcError as error:
        why = str(error_info(error).reason)
        return why if why in REFUSED else ""
    finally:
        call.cancel()
    return ""


async def admitting(who: str, channels: dict[str, grpc.aio.Channel], *metadata: Any) -> list[str]:
    """Return the methods that admit a caller whom the table does not name."""

    def may(callers: Callers) -> bool:
        kinds = {"device": callers.devices, "administrator": callers.administrators}
        return callers.anyone or kinds.get(who, who in callers.services)

    return [
        method
        for method, callers in OURS.items()
        if not may(callers)
        if not await answer(channels[service_of(method)], method, *metadata)
    ]


async def public_channels(stack: PlainStack) -> dict[str, grpc.aio.Channel]:
    return {service: await stack.public(service) for service in stack.services}


async def test_methods_called_by_nobody_in_particular(plain_stack: PlainStack) -> None:
    channels = await public_channels(plain_stack)
    assert await admitting("anyone", channels) == []


async def test_methods_called_by_a_device(plain_stack: PlainStack) -> None:
    channels = await public_channels(plain_stack)
    mallory = await plain_stack.enroll("mallory")
    for service in plain_stack.services:
        metadata = mallory.metadata(mallory.token(aud=f"{REALM}/{service}"))
        assert await admitting("device", channels, metadata) == []


@pytest.mark.parametrize("service", ["ca", "directory", "delivery", "administration"])
async def test_methods_called_by_another_service(plain_stack: PlainStack, service: str) -> None:
    channels = {
        callee: await plain_stack.internal(callee, service_names(REALM, service)) for callee in plain_stack.services
    }
    assert await admitting(service, channels) == []


async def test_methods_called_by_an_administrator(plain_stack: PlainStack) -> None:
    names = administrator_names(REALM, "mallory")
    channels = {callee: await plain_stack.internal(callee, names) for callee in plain_stack.services}
    assert await admitting("administrator", channels) == []


async def test_key_events_watched_by_a_device(plain_stack: PlainStack) -> None:
    mallory = await plain_stack.enroll("mallory")
    stub: Any = KeyEventServiceStub(await plain_stack.public("directory"))
    metadata = mallory.metadata(mallory.token(aud=f"{REALM}/directory"))
    watch = stub.WatchKeyEvents(pb.WatchKeyEventsRequest(), metadata=metadata)
    await refused(watch.read(), "METHOD_NOT_ADMITTED")


async def is_not_delivery(stack: PlainStack, names: Sequence[GeneralName]) -> None:
    """Demand that the directory does not take a certificate of these names for that of delivery."""
    stub: Any = DirectoryServiceStub(await stack.internal("directory", names))
    call = stub.GetKeyInfo(pb.GetKeyInfoRequest(username="alice"), timeout=20)
    await refused(call, "SERVICE_CERTIFICATE_REFUSED")


@pytest.mark.parametrize(
    "names",
    [
        [x509.DNSName("delivery.keypost.internal")],
        [x509.DNSName(f"keypost://{REALM}/service/delivery")],
        [x509.RFC822Name("delivery@example.org")],
        [uri(f"keypost://{REALM}/service/ca"), uri(f"keypost://{REALM}/service/delivery")],
        [uri(f"keypost://{REALM}/service/delivery"), uri(f"keypost://{REALM}/service/delivery")],
    ],
    ids=["a host", "a URI as a host", "mail", "two services", "one service twice"],
)
async def test_a_certificate_without_exactly_one_uri(plain_stack: PlainStack, names: Sequence[GeneralName]) -> None:
    await plain_stack.enroll("alice")
    await is_not_delivery(plain_stack, names)


async def test_a_certificate_whose_uri_is_almost_right(plain_stack: PlainStack) -> None:
    await plain_stack.enroll("alice")
    right = f"keypost://{REALM}/service/delivery"
    wrong = (
        "keypost://example.com/service/delivery",
        f"keypost://{REALM}.example.com/service/delivery",
        f"keypost://{REALM}:443/service/delivery",
        f"keypost://user@{REALM}/service/delivery",
        f"keypost://{REALM.upper()}/service/delivery",
        f"KEYPOST://{REALM}/service/delivery",
        *(right + more for more in ("?", "#", "?a=b", "#ca", "/")),
        *(f"keypost://{REALM}/{path}" for path in ("device/delivery", "service", "service/", "delivery")),
        "delivery",
    )
    for text in wrong:
        await is_not_delivery(plain_stack, [uri(text)])


async def test_streams_of_one_caller_by_the_thousand(delivery_stack: Stack) -> None:
    world = await PlainWorld(delivery_stack).start(max_calls=20, max_calls_per_caller=4)
    mallory, limits = world.mallory, world.world.service.calls._bounds.under_way
    silent: list[Any] = [mallory.delivery.Receive(metadata=mallory.metadata()) for _ in range(18)]
    answers = [asyncio.create_task(reason(stream.read())) for stream in silent]
    await until(lambda: sum(limits._by_caller.values()) + sum(task.done() for task in answers) == len(silent))
    assert (await served(world.alice.send("bob"))).HasField("stored")
    assert await served(world.bob.texts()) == ["hello"]
    check_told({task.result() for task in answers if task.done()}, "RATE_LIMITED")
    for task in answers:
        task.cancel()
    await asyncio.gather(*answers, return_exceptions=True)
