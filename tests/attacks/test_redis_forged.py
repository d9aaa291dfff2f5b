"""What somebody who writes into Redis could do: to the directory's cache, and to the mailboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from redis.asyncio import Redis

from keypost.clock import DAY, HOUR
from keypost.protocol.key_requests import DeviceKeyPair
from support.attacks import check_said, check_told
from support.delivery import Stack, open_stack
from support.directory import CaHost, DirectoryUnderTest, running_ca, running_directory
from support.hostile import Peer, opened
from support.lies import STRANGER, in_place_of, resigned
from support.realm import REALM, SimulatedRealm
from support.service import error_info
from support.simulation import Services, serving
from support.talk import text
from support.valkey import ValkeyServer, running_valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from keypost.keys.v1 import key_info_pb2 as pb
    from keypost.keys.v1 import realm_trust_pb2
    from keypost.protocol.identifiers import Address
    from support.clock import ManualClock
    from support.tls import TlsFiles

PATIENCE = 5
"""Seconds that the directory waits for Redis: what is in it is to be read however busy the machine is."""
BOB = f"kd:{REALM}:r:bob"


class TestCache:
    """Records of users, as the directory's replicas share them."""

    @pytest.fixture
    def valkey(self, tmp_path: Path) -> Iterator[ValkeyServer]:
        with running_valkey(tmp_path / "valkey") as server:
            yield server

    @pytest.fixture
    async def host(self, tmp_path: Path, clock: ManualClock) -> AsyncIterator[CaHost]:
        async with running_ca(tmp_path, SimulatedRealm(clock)) as host:
            yield host

    @pytest.fixture
    async def directory(
        self, host: CaHost, clock: ManualClock, valkey: ValkeyServer
    ) -> AsyncIterator[DirectoryUnderTest]:
        async with running_directory(host, clock, valkey.url, cache_timeout_seconds=PATIENCE) as directory:
            yield directory

    @pytest.fixture
    async def redis(self, valkey: ValkeyServer) -> AsyncIterator[Any]:
        async with Redis.from_url(valkey.url) as client:
            yield client

    async def put(self, redis: Any, key_info: pb.KeyInfo, revision: int, this_update: int) -> None:
        await redis.set(BOB, b"%020d%020d" % (revision, this_update) + key_info.SerializeToString())

    async def test_a_record_of_the_attackers(self, directory: DirectoryUnderTest, redis: Any) -> None:
        realm, honest = directory.realm, directory.realm.users
        honest_phone = realm.enroll("bob")
        bob = honest["bob"]
        in_place_of(realm, "bob")
        forged = resigned(realm, realm.statement("bob", revision=7), STRANGER)
        forged.record.record_key_fingerprint = realm.record_signer.fingerprint
        honest["bob"] = bob
        await self.put(redis, forged, 7, directory.clock())
        assert await directory.revision("bob") == 1
        assert directory.metric("records_refused_total", source="redis", reason="SIGNATURE_INVALID") == 1
        assert honest_phone.public_key_der in await redis.get(BOB)

    async def test_the_record_of_another_user(self, directory: DirectoryUnderTest, redis: Any) -> None:
        realm = directory.realm
        realm.enroll("bob")
        realm.renew(realm.enroll("mallory"))
        await self.put(redis, realm.key_info("mallory"), 2, directory.clock())
        assert await directory.revision("bob") == 1
        assert directory.metric("records_refused_total", source="redis", reason="RECORD_REFUSED") == 1

    async def test_a_record_from_before_a_revocation(self, directory: DirectoryUnderTest, redis: Any) -> None:
        realm = directory.realm
        laptop = realm.approve(realm.enroll("bob"))
        old, old_time = realm.key_info("bob"), directory.clock()
        realm.revoke(laptop)
        await directory.act_on("bob")
        await self.put(redis, old, 2, old_time)
        assert await directory.revision("bob") == 3
        assert directory.metric("records_refused_total", source="redis", reason="RECORD_REGRESSED") == 1

    async def test_a_record_from_before_a_revocation_for_a_replica_that_has_seen_nothing(
        self, host: CaHost, clock: ManualClock, valkey: ValkeyServer, redis: Any
    ) -> None:
        """It is the CA's own word and fresh: it ends with its next_update, as the realm's constants promise."""
        realm = host.ca.realm
        laptop = realm.approve(realm.enroll("bob"))
        await self.put(redis, realm.key_info("bob"), 2, clock())
        realm.revoke(laptop)
        host.ca.announce("bob")
        await redis.set(f"kd:{REALM}:sequence", "1")
        async with running_directory(host, clock, valkey.url, cache_timeout_seconds=PATIENCE) as fresh:
            assert await fresh.revision("bob") == 2
            await host.stop()
            clock.advance(HOUR)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await fresh.revision("bob")
            assert error_info(refused.value).reason == "CA_UNAVAILABLE"

    async def test_a_prefix_that_keeps_newer_records_out(self, directory: DirectoryUnderTest, redis: Any) -> None:
        realm = directory.realm
        phone = realm.enroll("bob")
        await redis.set(BOB, b"9" * 40 + realm.key_info("bob").SerializeToString())
        assert await directory.revision("bob") == 1
        renewed = realm.renew(phone)
        assert await directory.revision("bob", min_revision=2) == 2
        assert renewed.public_key_der in await redis.get(BOB)


class BeforeRealDelivery(Services):
    """The simulated CA and directory, before a delivery that runs over a Valkey."""

    def __init__(self, stack: Stack, port: int) -> None:
        super().__init__(stack.realm)
        self.stack, self.delivery_port = stack, port

    def bundle(self, tls: TlsFiles) -> realm_trust_pb2.Bundle:
        bundle = super().bundle(tls)
        bundle.endpoints.delivery = f"127.0.0.1:{self.delivery_port}"
        bundle.tls_roots_pem += (self.stack.folder / "tls" / "public-root.pem").read_text()
        return bundle

    async def waiting(self, address: Address) -> list[dict[bytes, bytes]]:
        """Return the entries of a mailbox."""
        async with Redis.from_url(self.stack.valkey.url) as redis:
            entries: Any = await redis.xrange(f"keypost:{{{address}}}:waiting")
        return [fields for _, fields in entries]

    async def slip_in(self, address: Address, accept_time: int, envelope: bytes) -> None:
        """Write an envelope into a mailbox past delivery."""
        await self.write(address, {b"t": b"%d" % accept_time, b"e": envelope})

    async def write(self, address: Address, fields: dict[Any, Any]) -> None:
        """Write an entry of any kind into a mailbox."""
        async with Redis.from_url(self.stack.valkey.url) as redis:
            await redis.xadd(f"keypost:{{{address}}}:waiting", fields, id=f"{self.stack.clock()}-*")


class TestMailboxes:
    """What waits for whom."""

    @pytest.fixture
    async def services(
        self, tmp_path: Path, clock: ManualClock, generate: Any, tls: TlsFiles
    ) -> AsyncIterator[BeforeRealDelivery]:
        async with open_stack(tmp_path / "delivery", clock) as stack:
            stack.realm.new_private_key = generate
            port = (await stack.start()).public_port
            async with serving(BeforeRealDelivery(stack, port), tls) as services:
                yield services  # type: ignore[misc]  # it is what was given

    async def test_the_message_of_another_user_is_moved_into_a_mailbox(
        self, alice: Any, bob: Any, open_client: Any, services: BeforeRealDelivery
    ) -> None:
        carol = await open_client("carol")
        await carol.client.enroll("carol")
        await alice.client.send("bob", "for Bob alone")
        [entry] = await services.waiting(bob.client.address)
        await services.slip_in(carol.client.address, int(entry[b"t"]), entry[b"e"])
        assert await carol.inbox() == []
        check_told(carol.reasons("set_aside"), "NOT_FOR_THIS_DEVICE")
        check_said(carol.events[-1].sentence, "for another user")
        assert [message.text for message in await bob.inbox()] == ["for Bob alone"]

    async def test_rubbish_in_the_way_of_what_comes_after_it(
        self, alice: Any, bob: Any, services: BeforeRealDelivery
    ) -> None:
        await alice.client.send("bob", "before")
        [entry] = await services.waiting(bob.client.address)
        for fields in ({b"t": b"soon", b"e": entry[b"e"]}, {b"t": b"9" * 30, b"e": b"\xff"}, {b"x": b""}):
            await services.write(bob.client.address, fields)
        await alice.client.send("bob", "after")
        assert await opened(bob) == ["before", "after"]
        check_told(bob.reasons("set_aside"), "MALFORMED_STATEMENT")
        assert await services.waiting(bob.client.address) == []

    async def test_a_message_by_a_replaced_key_is_dated_back(
        self, alice: Any, bob: Any, services: BeforeRealDelivery, clock: ManualClock
    ) -> None:
        stolen: DeviceKeyPair = alice.client._parts.identity.current
        mallory = Peer(services, DeviceKeyPair(stolen.address, stolen.suite, stolen.private_key, stolen.public_key_der))
        forged = mallory.write(mallory.offer("bob"), text("as if Alice had sent it before"))
        before = clock()
        await alice.client.renew()
        clock.advance(DAY)
        await bob.client.keys("alice")
        assert await bob.inbox() == []
        await services.slip_in(bob.client.address, before, forged)
        assert await bob.inbox() == []
        check_told(bob.reasons("set_aside"), "KEY_SUPERSEDED")
