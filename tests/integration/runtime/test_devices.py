from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from jwt.utils import base64url_encode

from keypost.clock import HOUR, MINUTE, SECOND
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import delivery_service_pb2_grpc
from keypost.protocol.errors import TokenRefusedError
from keypost.protocol.suites import WEAK
from keypost.protocol.tokens import mint_token
from keypost_services.runtime.auth import CallerKind, FoundKey, current_caller
from keypost_services.runtime.errors import ServiceError
from keypost_services.runtime.method_table import anyone, devices
from support.clock import ManualClock
from support.collector import collecting
from support.realm import REALM, SimulatedRealm
from support.service import RECEIVE, SEND, error_info, retry_after_ms, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from keypost.protocol.key_requests import DeviceKeyPair
    from support.service import ServiceUnderTest

AUDIENCE = f"{REALM}/delivery"
LIST = SEND.replace("Send", "ListMailboxes")


@dataclass
class Keys:
    """Looks keys up in a realm in memory."""

    realm: SimulatedRealm
    looked_up: int = 0
    error: Exception | None = None
    meanwhile: list[Any] = field(default_factory=list)
    record_lifetime: int = HOUR

    async def find_device_key(self, username: str, fingerprint: bytes) -> FoundKey:
        self.looked_up += 1
        if self.error:
            raise self.error
        found = [key for key in self.realm.user(username).keys if key.fingerprint == fingerprint]
        if self.meanwhile:
            self.meanwhile.pop()()
        if not found:
            raise TokenRefusedError("UNKNOWN_KEY")
        return FoundKey(found[0], self.realm.clock() + self.record_lifetime)


@dataclass
class World:
    """A delivery service, a realm, and Alice with a device."""

    clock: ManualClock
    realm: SimulatedRealm
    keys: Keys
    alice: DeviceKeyPair
    service: ServiceUnderTest
    stub: Any

    def token(self, pair: DeviceKeyPair | None = None, audience: str = AUDIENCE, lifetime: int = 10 * MINUTE) -> str:
        return mint_token(pair or self.alice, audience, self.clock(), lifetime)

    async def send(self, *authorizations: str) -> pb.SendResponse:
        metadata = tuple(("authorization", value) for value in authorizations)
        response: pb.SendResponse = await self.stub.Send(pb.SendRequest(), metadata=metadata, timeout=10)
        return response

    async def refusal(self, *authorizations: str) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.send(*authorizations)
        return caught.value

    async def cause(self, token: str) -> str:
        caught = await self.refusal(f"Bearer {token}")
        info = error_info(caught)
        assert (caught.code(), info.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED")
        return str(info.metadata["cause"])

    async def open_stream(self, token: str) -> Any:
        stream = self.stub.Receive(metadata=(("authorization", f"Bearer {token}"),))
        await stream.write(pb.ReceiveRequest())
        await stream.read()
        return stream


@contextlib.asynccontextmanager
async def world(folder: Path, **options: Any) -> AsyncIterator[World]:
    clock = ManualClock()
    realm = SimulatedRealm(clock)
    keys = Keys(realm)
    alice = realm.enroll("alice")
    async with (
        serving(folder, device_keys=keys, clock=clock, **options) as service,
        service.public_channel() as channel,
        asyncio.timeout(20),
    ):
        yield World(clock, realm, keys, alice, service, delivery_service_pb2_grpc.DeliveryServiceStub(channel))


async def test_a_token_shows_which_device_calls(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def look(_request: Any, _context: Any) -> pb.SendResponse:
        seen.append(current_caller())
        return pb.SendResponse()

    async with world(tmp_path) as here:
        here.service.servicer.on_send = look
        await here.send(f"Bearer {here.token()}")
        weak = here.realm.enroll("bob", WEAK)
        await here.send(f"bearer {here.token(weak)}")
    assert [caller.address for caller in seen] == [here.alice.address, weak.address]
    assert seen[0].kind is CallerKind.DEVICE
    assert seen[0].key.fingerprint == here.alice.fingerprint
    assert seen[0].expire_time == here.clock() + 10 * MINUTE
    assert [line["caller"] for line in here.service.events("call")] == [str(here.alice.address), str(weak.address)]


async def test_without_exactly_one_bearer_token_nothing_is_looked_up(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        token = here.token()
        for authorizations, cause in (
            ((), "MISSING"),
            ((f"Bearer {token}", f"Bearer {token}"), "MALFORMED"),
            ((f"Basic {token}",), "MALFORMED"),
            (("Bearer",), "MALFORMED"),
            (("Bearer a.b.c",), "MALFORMED"),
            ((f"Bearer {'x' * 5000}",), "MALFORMED"),
        ):
            caught = await here.refusal(*authorizations)
            assert error_info(caught).metadata["cause"] == cause
            assert caught.code() is grpc.StatusCode.UNAUTHENTICATED
        assert here.keys.looked_up == 0


async def test_a_token_that_nests_too_deeply_is_malformed(tmp_path: Path) -> None:
    header = base64url_encode(json.dumps({"alg": "PS256", "kid": "a" * 64}).encode()).decode()
    payload = base64url_encode(b"[" * 2_900).decode()
    async with world(tmp_path) as here:
        assert await here.cause(f"{header}.{payload}.AA"[:4096]) == "MALFORMED"


async def test_a_caller_is_remembered_for_a_minute_and_until_the_key_event(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        token, callers = here.token(), here.service.running.runtime.callers
        for _ in range(3):
            await here.send(f"Bearer {token}")
        assert here.keys.looked_up == 1
        here.clock.advance(MINUTE)
        await here.send(f"Bearer {token}")
        assert here.keys.looked_up == 2
        callers.drop_key(bytes(32))
        callers.drop_user("bob")
        await here.send(f"Bearer {token}")
        assert here.keys.looked_up == 2
        drops: list[Callable[[], None]] = [
            lambda: callers.drop_key(here.alice.fingerprint),
            lambda: callers.drop_user("alice"),
            callers.drop_all,
        ]
        for drop in drops:
            drop()
            await here.send(f"Bearer {token}")
        assert here.keys.looked_up == 5
        here.realm.renew(here.alice)
        callers.drop_key(here.alice.fingerprint)
        assert await here.cause(token) == "KEY_SUPERSEDED"


async def test_a_caller_is_not_remembered_beyond_its_record(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        token = f"Bearer {here.token()}"
        here.keys.record_lifetime = SECOND
        await here.send(token)
        here.clock.advance(SECOND - 1)
        await here.send(token)
        assert here.keys.looked_up == 1
        here.clock.advance(1)
        await here.send(token)
        assert here.keys.looked_up == 2


async def test_the_key_event_ends_the_callers_streams_and_no_others(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        bob = here.realm.enroll("bob")
        streams = [await here.open_stream(here.token()) for _ in range(2)]
        other = await here.open_stream(here.token(bob))
        here.service.running.runtime.callers.drop_key(here.alice.fingerprint)
        for stream in streams:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert error_info(caught.value).reason == "TOKEN_REFUSED"
        await other.write(pb.ReceiveRequest())
        assert await other.read() != grpc.aio.EOF
        await other.done_writing()
        assert await other.read() is grpc.aio.EOF


async def test_a_key_event_that_crosses_the_look_up_is_not_missed(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        callers = here.service.running.runtime.callers

        def renew() -> None:
            here.realm.renew(here.alice)
            callers.drop_key(here.alice.fingerprint)

        here.keys.meanwhile.append(renew)
        assert await here.cause(here.token()) == "KEY_SUPERSEDED"
        assert here.keys.looked_up == 2


async def test_keys_that_never_stand_still_are_unavailable(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        callers = here.service.running.runtime.callers
        here.keys.meanwhile += [lambda: callers.drop_user("alice")] * 3
        caught = await here.refusal(f"Bearer {here.token()}")
        assert (caught.code(), error_info(caught).reason) == (grpc.StatusCode.UNAVAILABLE, "KEYS_CHANGING")


async def test_whether_a_user_exists_is_not_told_and_an_outage_is(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.keys.error = ServiceError(grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND", "no", username="alice")
        assert await here.cause(here.token()) == "UNKNOWN_KEY"
        here.keys.error = ServiceError(grpc.StatusCode.UNAVAILABLE, "DIRECTORY_UNAVAILABLE", "away")
        caught = await here.refusal(f"Bearer {here.token()}")
        assert error_info(caught).reason == "DIRECTORY_UNAVAILABLE"


async def test_bad_tokens_are_limited_for_each_address_before_anything_is_looked_up(tmp_path: Path) -> None:
    async with world(tmp_path, token_lookups_per_second=0.3) as here:
        for _ in range(5):
            await here.send(f"Bearer {here.token()}")
            here.service.running.runtime.callers.drop_all()
        bad = here.token(audience="elsewhere")
        for _ in range(3):
            assert await here.cause(bad) == "WRONG_AUDIENCE"
        looked_up = here.keys.looked_up
        caught = await here.refusal(f"Bearer {bad}")
        assert (caught.code(), error_info(caught).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert (retry_after_ms(caught) or 0) > 0
        assert here.keys.looked_up == looked_up
        here.clock.advance(4 * SECOND)
        await here.send(f"Bearer {here.token()}")


async def test_a_service_that_knows_no_devices_admits_none(tmp_path: Path) -> None:
    async with world(tmp_path, parts={"device_keys": None}) as here:
        caught = await here.refusal(f"Bearer {here.token()}")
        assert (caught.code(), error_info(caught).reason) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "METHOD_NOT_ADMITTED",
        )


async def test_strangers_do_not_use_up_what_devices_may_have_recorded(tmp_path: Path) -> None:
    """Attack: calls without a token, and others where anyone may call, each part of a trace that is to be recorded."""
    wish = ("traceparent", f"00-{'a' * 32}-{'b' * 16}-01")
    with collecting() as collector:
        on = {"tracing_endpoint": collector.endpoint, "tracing_ratio": 0, "tracing_device_traces_per_second": 1}
        methods = {SEND: devices(), RECEIVE: anyone(), LIST: anyone()}
        async with world(tmp_path, methods=methods, **on) as here:
            for authorization in [(), (("authorization", "Bearer a.b.c"),)] * 5:
                with pytest.raises(grpc.aio.AioRpcError):
                    await here.stub.Send(pb.SendRequest(), metadata=(wish, *authorization), timeout=10)
            for _ in range(10):
                with pytest.raises(grpc.aio.AioRpcError, match="INTERNAL"):  # nothing more than that anyone may call it
                    await here.stub.ListMailboxes(pb.ListMailboxesRequest(), metadata=(wish,), timeout=10)
            bearer = ("authorization", f"Bearer {here.token()}")
            for _ in range(10):
                await here.stub.Send(pb.SendRequest(), metadata=(wish, bearer), timeout=10)
    names = [span.name.rpartition("/")[2] for span in collector.spans]
    assert sorted(names) == ["ListMailboxes"] * 2 + ["Send"] * 2
    assert [span.failed for span in collector.spans if span.name.endswith("/Send")] == [False, False]
