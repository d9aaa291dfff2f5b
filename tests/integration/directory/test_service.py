"""The directory over real TLS, between a CA that the test plays and callers of each kind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.clock import HOUR, MINUTE
from keypost.directory.v1 import directory_service_pb2 as pb
from keypost.keys.v1 import key_info_pb2
from keypost.protocol.key_info import read_key_info
from support.directory import CaHost, DirectoryUnderTest, directory_settings, running_directory
from support.realm import seeded_signer
from support.service import error_info, retry_after_ms

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from support.clock import ManualClock
    from support.valkey import ValkeyServer


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code(), error_info(refused.value).reason


class TestLookUps:
    async def test_the_record_is_the_cas_as_signed(self, directory: DirectoryUnderTest) -> None:
        directory.realm.enroll("alice")
        response = await (await directory.delivery()).GetKeyInfo(pb.GetKeyInfoRequest(username="alice"))
        record = read_key_info(
            response.key_info, trust=directory.realm.trust(), username="alice", now=directory.clock()
        )
        assert record == directory.realm.key_record("alice")

    async def test_a_hundred_look_ups_at_once_are_one_question(self, directory: DirectoryUnderTest) -> None:
        directory.realm.enroll("alice")
        directory.ca.gate.clear()
        stub = await directory.delivery()
        calls = [stub.GetKeyInfo(pb.GetKeyInfoRequest(username="alice")) for _ in range(100)]
        await asyncio.wait_for(directory.ca.asked.wait(), 10)
        directory.ca.gate.set()
        await asyncio.gather(*calls)
        assert directory.ca.questions == [["alice"]]

    async def test_a_batch_has_a_result_for_each(self, directory: DirectoryUnderTest) -> None:
        directory.realm.enroll("alice")
        directory.realm.enroll("mallory")
        directory.ca.answers["bob"] = directory.realm.key_info("mallory")
        request = pb.BatchGetKeyInfoRequest(usernames=["nobody", "alice", "bob"])
        response = await (await directory.delivery()).BatchGetKeyInfo(request)
        assert [result.username for result in response.results] == ["nobody", "alice", "bob"]
        nobody, alice, bob = response.results
        assert nobody.failure == pb.LOOK_UP_FAILURE_NOT_FOUND
        assert alice.key_info.HasField("record")
        assert bob.failure == pb.LOOK_UP_FAILURE_UNAVAILABLE
        assert directory.ca.questions == [["nobody", "alice", "bob"]]

    async def test_history_begins_where_it_is_wanted(self, directory: DirectoryUnderTest) -> None:
        pairs = [directory.realm.enroll("alice")]
        pairs += [directory.realm.renew(pairs[-1]) for _ in range(1)]
        pairs.append(directory.realm.renew(pairs[-1]))
        user = directory.realm.users["alice"]
        user.history, user.keys = tuple(key.request for key in user.keys[:2]), user.keys[2:]
        stub = await directory.delivery()
        for wanted, shown in ((b"", 2), (pairs[0].fingerprint, 1), (pairs[1].fingerprint, 0), (b"x" * 32, 2)):
            request = pb.GetKeyInfoRequest(username="alice", history_from_fingerprint=wanted)
            assert len((await stub.GetKeyInfo(request)).key_info.history) == shown
        # What the first of them asked for is not what the next one is served.
        assert directory.ca.questions == [["alice"]]

    async def test_nobody_is_not_found(self, directory: DirectoryUnderTest) -> None:
        stub = await directory.delivery()
        request = pb.GetKeyInfoRequest(username="nobody")
        assert await refusal(stub.GetKeyInfo(request)) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")

    @pytest.mark.parametrize(
        "request_",
        [
            pb.GetKeyInfoRequest(),
            pb.GetKeyInfoRequest(username="Alice"),
            pb.GetKeyInfoRequest(username="alice", history_from_fingerprint=b"x"),
        ],
    )
    async def test_what_cannot_be_is_refused(
        self, directory: DirectoryUnderTest, request_: pb.GetKeyInfoRequest
    ) -> None:
        call = (await directory.delivery()).GetKeyInfo(request_)
        assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert directory.ca.questions == []

    async def test_a_min_revision_asks_through_and_is_bounded(self, directory: DirectoryUnderTest) -> None:
        pair = directory.realm.enroll("alice")
        assert await directory.revision("alice") == 1
        directory.realm.renew(pair)
        assert await directory.revision("alice") == 1
        assert await directory.revision("alice", min_revision=2) == 2
        for _ in range(5):
            assert await directory.revision("alice", min_revision=2**63 - 1) == 2
        assert len(directory.ca.questions) == 3


class TestCallers:
    async def test_a_device_looks_up_with_its_token(self, directory: DirectoryUnderTest) -> None:
        alice = directory.realm.enroll("alice")
        directory.realm.enroll("bob")
        metadata = directory.token_metadata(alice)
        request = pb.GetKeyInfoRequest(username="bob")
        response = await (await directory.public()).GetKeyInfo(request, metadata=metadata)
        assert response.key_info.HasField("record")

    async def test_without_a_token_nothing_is_looked_up(self, directory: DirectoryUnderTest) -> None:
        directory.realm.enroll("bob")
        call = (await directory.public()).GetKeyInfo(pb.GetKeyInfoRequest(username="bob"))
        assert await refusal(call) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED")
        assert directory.ca.questions == []

    async def test_a_key_that_is_no_longer_good_is_no_caller(self, directory: DirectoryUnderTest) -> None:
        old = directory.realm.enroll("alice")
        stub = await directory.public()
        request = pb.GetKeyInfoRequest(username="alice")
        await stub.GetKeyInfo(request, metadata=directory.token_metadata(old))
        new = directory.realm.renew(old)
        await directory.act_on("alice")
        call = stub.GetKeyInfo(request, metadata=directory.token_metadata(old))
        assert await refusal(call) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED")
        await stub.GetKeyInfo(request, metadata=directory.token_metadata(new))

    async def test_a_device_may_not_watch(self, directory: DirectoryUnderTest) -> None:
        from keypost.directory.v1.directory_service_pb2_grpc import KeyEventServiceStub  # noqa: PLC0415

        alice = directory.realm.enroll("alice")
        credentials = grpc.ssl_channel_credentials((directory.folder / "public-root.pem").read_bytes())
        target = f"127.0.0.1:{directory.service.public_port}"
        async with grpc.aio.secure_channel(target, credentials) as channel:
            watch: Any = KeyEventServiceStub(channel).WatchKeyEvents(
                pb.WatchKeyEventsRequest(), metadata=directory.token_metadata(alice)
            )
            assert await refusal(watch.read()) == (grpc.StatusCode.PERMISSION_DENIED, "METHOD_NOT_ADMITTED")


class TestRealmTrust:
    async def test_anybody_gets_the_statement(self, directory: DirectoryUnderTest) -> None:
        response = await (await directory.public()).GetRealmTrust(pb.GetRealmTrustRequest())
        assert response.realm_trust == directory.ca.trust

    async def test_a_new_record_key_is_learnt_when_it_is_first_seen(self, directory: DirectoryUnderTest) -> None:
        directory.realm.enroll("alice")
        directory.realm.record_signer = seeded_signer(3)
        directory.ca.trust = directory.realm.signed_trust(sequence=2)
        directory.clock.advance(MINUTE)
        assert await directory.revision("alice") == 1
        response = await (await directory.public()).GetRealmTrust(pb.GetRealmTrustRequest())
        assert response.realm_trust == directory.ca.trust
        assert directory.service.runtime.metrics.get_sample_value("keypost_trust_sequence") == 2


class TestRedis:
    async def test_another_replica_finds_it_there(
        self, directory: DirectoryUnderTest, host: CaHost, clock: ManualClock, valkey: ValkeyServer
    ) -> None:
        directory.realm.enroll("alice")
        await directory.revision("alice")
        async with running_directory(host, clock, valkey.url) as other:
            assert await other.revision("alice") == 1
            assert other.metric("look_ups_total", tier="redis") == 1
        assert len(directory.ca.questions) == 1

    async def test_it_goes_on_without_redis_and_returns_to_it_by_itself(
        self, directory: DirectoryUnderTest, valkey: ValkeyServer
    ) -> None:
        directory.realm.enroll("alice")
        directory.realm.enroll("bob")
        valkey.kill()
        assert await directory.revision("alice") == 1
        assert "redis" in directory.health.degraded
        assert directory.degraded("redis") == 1
        assert directory.metric("redis_errors_total") >= 1
        pair = directory.realm.enroll("carol")
        assert await directory.revision("carol") == 1
        valkey.start()
        directory.clock.advance(20)
        directory.realm.renew(pair)
        await directory.act_on("carol")
        assert await directory.revision("carol") == 2
        assert "redis" not in directory.health.degraded
        assert directory.degraded("redis") == 0

    async def test_a_redis_that_hangs_delays_one_look_up_not_all(
        self, host: CaHost, clock: ManualClock, valkey: ValkeyServer
    ) -> None:
        for number in range(5):
            host.ca.realm.enroll(f"user{number}")
        async with running_directory(host, clock, valkey.url, cache_timeout_seconds=0.1) as directory:
            valkey.freeze()
            async with asyncio.timeout(2):
                for number in range(5):
                    assert await directory.revision(f"user{number}") == 1
            valkey.thaw()
            assert "redis" in directory.health.degraded

    async def test_it_starts_without_redis(self, host: CaHost, clock: ManualClock) -> None:
        host.ca.realm.enroll("alice")
        async with running_directory(host, clock, "redis://127.0.0.1:1/0") as directory:
            assert await directory.revision("alice") == 1
            assert "redis" in directory.health.degraded

    async def test_what_happened_while_no_replica_ran_is_made_good_at_the_start(
        self, host: CaHost, clock: ManualClock, valkey: ValkeyServer
    ) -> None:
        pair = host.ca.realm.enroll("alice")
        host.ca.announce("alice")
        async with running_directory(host, clock, valkey.url) as directory:
            assert await directory.revision("alice") == 1
        host.ca.realm.renew(pair)
        host.ca.announce("alice")
        async with running_directory(host, clock, valkey.url) as directory:
            assert await directory.revision("alice") == 2
        assert host.ca.watches == [None, 1]


class TestTheCaAway:
    async def test_what_is_fresh_is_served_and_nothing_else(self, directory: DirectoryUnderTest) -> None:
        directory.realm.enroll("alice")
        directory.realm.enroll("bob")
        await directory.revision("alice")
        await directory.host.stop()
        await asyncio.wait_for(directory.until_state("watch", degraded=True), 10)
        assert await directory.revision("alice") == 1
        stub = await directory.delivery()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetKeyInfo(pb.GetKeyInfoRequest(username="bob"))
        assert error_info(refused.value).reason == "CA_UNAVAILABLE"
        assert retry_after_ms(refused.value) is not None
        results = await stub.BatchGetKeyInfo(pb.BatchGetKeyInfoRequest(usernames=["alice", "bob"]))
        assert results.results[1].failure == pb.LOOK_UP_FAILURE_UNAVAILABLE
        assert {"ca", "watch"} <= set(directory.health.degraded)
        # With the watch down for long, what is fresh is still served where the CA does not answer ...
        directory.clock.advance(HOUR - 1)
        assert await directory.revision("alice") == 1
        # ... until its next_update.
        directory.clock.advance(1)
        with pytest.raises(grpc.aio.AioRpcError):
            await directory.revision("alice")

    async def test_it_returns_to_the_ca_by_itself(self, directory: DirectoryUnderTest) -> None:
        directory.realm.enroll("alice")
        directory.ca.announce("alice")
        await directory.host.stop()
        await asyncio.wait_for(directory.until_state("watch", degraded=True), 10)
        with pytest.raises(grpc.aio.AioRpcError):
            await directory.revision("alice")
        await directory.host.start()
        await asyncio.wait_for(directory.until_state("watch", degraded=False), 20)
        directory.clock.advance(1_000)
        assert await directory.revision("alice") == 1
        assert "ca" not in directory.health.degraded

    async def test_a_device_is_not_refused_for_good(self, directory: DirectoryUnderTest) -> None:
        alice = directory.realm.enroll("alice")
        await directory.host.stop()
        request = pb.GetKeyInfoRequest(username="alice")
        call = (await directory.public()).GetKeyInfo(request, metadata=directory.token_metadata(alice))
        assert await refusal(call) == (grpc.StatusCode.UNAVAILABLE, "CA_UNAVAILABLE")

    async def test_without_a_ca_it_starts_degraded_and_says_so(
        self, host: CaHost, clock: ManualClock, valkey: ValkeyServer
    ) -> None:
        await host.stop()
        async with running_directory(host, clock, valkey.url, start_seconds=0.05) as directory:
            await asyncio.wait_for(directory.until_state("watch", degraded=True), 20)
            stub = await directory.public()
            call = stub.GetRealmTrust(pb.GetRealmTrustRequest())
            assert await refusal(call) == (grpc.StatusCode.UNAVAILABLE, "CA_UNAVAILABLE")
            assert directory.logged("started without the CA")
            await host.start()
            await asyncio.wait_for(directory.until_state("watch", degraded=False), 20)

    async def test_a_ca_that_is_slow_counts_as_away(self, host: CaHost, clock: ManualClock) -> None:
        host.ca.realm.enroll("alice")
        async with running_directory(host, clock, "redis://127.0.0.1:1/0", ca_timeout_seconds=0.05) as directory:
            host.ca.gate.clear()
            call = (await directory.delivery()).GetKeyInfo(pb.GetKeyInfoRequest(username="alice"))
            assert await refusal(call) == (grpc.StatusCode.UNAVAILABLE, "CA_UNAVAILABLE")
            host.ca.gate.set()

    async def test_a_certificate_of_another_service_is_no_ca(self, host: CaHost, clock: ManualClock) -> None:
        settings = directory_settings(host.folder, host.ca.realm, host.port, "redis://127.0.0.1:1/0")
        async with running_directory(host, clock, settings.cache_url) as real:
            # The directory itself answers at its internal port, with a certificate of the same root.
            impostor = f"127.0.0.1:{real.service.internal_port}"
            async with running_directory(host, clock, settings.cache_url, ca=impostor, start_seconds=0.3) as directory:
                await asyncio.wait_for(directory.until_state("watch", degraded=True), 20)


class TestWatch:
    async def watch(self, directory: DirectoryUnderTest, after: int | None = None) -> Any:
        return (await directory.events()).WatchKeyEvents(pb.WatchKeyEventsRequest(after_sequence=after))

    async def test_it_begins_with_a_message_at_once(self, directory: DirectoryUnderTest) -> None:
        first = await (await self.watch(directory)).read()
        assert list(first.events) == []
        assert first.newest_sequence == 0

    async def test_events_come_on_with_their_numbers_after_the_user_was_dropped(
        self, directory: DirectoryUnderTest
    ) -> None:
        pair = directory.realm.enroll("alice")
        assert await directory.revision("alice") == 1
        watch = await self.watch(directory)
        await watch.read()
        directory.realm.renew(pair)
        event = directory.ca.announce("alice")
        assert list((await watch.read()).events) == [event]
        assert await directory.revision("alice") == 2

    async def test_it_is_resumed_after_a_sequence(self, directory: DirectoryUnderTest) -> None:
        directory.realm.enroll("alice")
        for _ in range(3):
            await directory.act_on("alice")
        resumed = await (await self.watch(directory, after=1)).read()
        assert [event.sequence for event in resumed.events] == [2, 3]
        assert resumed.newest_sequence == 3

    async def test_the_upstream_watch_is_resumed_where_it_broke_without_a_gap(
        self, directory: DirectoryUnderTest
    ) -> None:
        directory.realm.enroll("alice")
        await directory.act_on("alice")
        watch = await self.watch(directory)
        await watch.read()
        directory.ca.refuses_watches = True
        directory.ca.break_watches()
        await asyncio.wait_for(directory.until_state("watch", degraded=True), 10)
        directory.ca.announce("alice")
        directory.ca.announce("alice")
        directory.ca.refuses_watches = False
        seen: list[int] = []
        while len(seen) < 2:
            seen += [event.sequence for event in (await watch.read()).events]
        assert seen == [2, 3]
        assert directory.ca.watches[0] is None
        assert set(directory.ca.watches[1:]) == {1}

    async def test_a_gap_makes_delivery_drop_everything(self, directory: DirectoryUnderTest) -> None:
        pair = directory.realm.enroll("alice")
        await directory.revision("alice")
        watch = await self.watch(directory)
        await watch.read()
        directory.realm.renew(pair)
        directory.ca.announce("alice", skip=1)
        assert await refusal(_until_end(watch)) == (grpc.StatusCode.OUT_OF_RANGE, "EVENTS_FORGOTTEN")
        await asyncio.wait_for(directory.until_state("watch", degraded=False), 10)
        directory.clock.advance(1)
        assert await directory.revision("alice") == 2

    async def test_a_ca_restored_from_a_backup_makes_everything_be_dropped(
        self, directory: DirectoryUnderTest, valkey: ValkeyServer
    ) -> None:
        from keypost_services.runtime.redis import redis_client  # noqa: PLC0415

        pair = directory.realm.enroll("alice")
        directory.realm.renew(pair)
        directory.realm.enroll("bob")
        await directory.act_on("alice")
        assert (await directory.revision("alice"), await directory.revision("bob")) == (2, 1)
        await directory.host.stop()
        user = directory.realm.users["alice"]
        user.keys, user.revision = (), 0
        directory.realm.enroll("alice")
        directory.ca.events.clear()
        await directory.host.start()
        async with asyncio.timeout(20):
            await directory.until_state("watch", degraded=True)
            await directory.until_state("watch", degraded=False)
        directory.clock.advance(1_000)
        asked = len(directory.ca.questions)
        assert await directory.revision("bob") == 1
        assert len(directory.ca.questions) == asked + 1
        # What was seen of alice stays: a key that she revoked after the backup must not be good again.
        with pytest.raises(grpc.aio.AioRpcError, match="nothing fresh is held here"):
            await directory.revision("alice")
        redis = redis_client(valkey.url)
        assert await redis.get("kd:example.org:sequence") in (None, b"0")
        await redis.aclose()

    async def test_too_far_back_is_forgotten_too_far_ahead_refused(
        self, host: CaHost, clock: ManualClock, valkey: ValkeyServer
    ) -> None:
        host.ca.realm.enroll("alice")
        async with running_directory(host, clock, valkey.url, event_buffer=2) as directory:
            for _ in range(3):
                await directory.act_on("alice")
            forgotten = (grpc.StatusCode.OUT_OF_RANGE, "EVENTS_FORGOTTEN")
            assert await refusal((await self.watch(directory, after=0)).read()) == forgotten
            ahead = (grpc.StatusCode.OUT_OF_RANGE, "SEQUENCE_AHEAD")
            assert await refusal((await self.watch(directory, after=4)).read()) == ahead

    async def test_with_the_upstream_watch_down_for_long_nothing_is_promised(
        self, directory: DirectoryUnderTest
    ) -> None:
        directory.ca.refuses_watches = True
        directory.ca.break_watches()
        await asyncio.wait_for(directory.until_state("watch", degraded=True), 10)
        directory.clock.advance(31_000)
        refused = (grpc.StatusCode.UNAVAILABLE, "CA_UNAVAILABLE")
        assert await refusal((await self.watch(directory)).read()) == refused


async def _until_end(watch: Any) -> None:
    while True:
        await watch.read()


async def test_its_metrics_and_log_hold_no_key(directory: DirectoryUnderTest) -> None:
    alice = directory.realm.enroll("alice")
    request = pb.GetKeyInfoRequest(username="alice")
    metadata = directory.token_metadata(alice)
    await (await directory.public()).GetKeyInfo(request, metadata=metadata)
    assert metadata[0][1] not in directory.output.getvalue()
    assert key_info_pb2.KeyInfo.DESCRIPTOR.full_name not in directory.output.getvalue()
