"""Channels among services that outlive certificates and addresses: real mutual TLS, a real name server."""

from __future__ import annotations

import asyncio
import contextlib
import io
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost_services.runtime import renewed_channel
from keypost_services.runtime.channels import channel_to
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.renewed_channel import ADDRESSES_SECONDS, RenewedChannel
from keypost_services.runtime.tls import FollowedFiles, TlsFiles
from support.name_server import NameServer, name_server
from support.replicas import CALL, HOLD, WATCH, Replica, ReplicaRoot, serial_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from keypost_services.embedded.certificates import Issued


class Caller:
    """A service that calls the CA: its files, its channel, and the time by which the channel goes."""

    def __init__(self, folder: Path, root: ReplicaRoot) -> None:
        self.root = root
        self.files = TlsFiles(folder / "own.pem", folder / "own.key", folder / "root.pem")
        (folder / "root.pem").write_bytes(root.root_pem)
        self.now = 0.0
        self.opened: list[grpc.aio.Channel] = []
        self.relied_on: list[float] = []
        self.serial = 0
        self.renew()

    def renew(self) -> Issued:
        """Put another pair in the files' place."""
        issued = self.root.issue("directory")
        self.put(self.files.private_key, issued.private_key_pem)
        self.put(self.files.certificate, issued.certificate_pem)
        self.serial = serial_of(issued.certificate_pem)
        return issued

    def put(self, file: Path, content: bytes) -> None:
        new = file.with_suffix(".new")
        new.write_bytes(content)
        new.replace(file)

    def channel(self, target: str, **options: Any) -> RenewedChannel:
        log = make_logger("test", "error", "json", io.StringIO())

        def open_channel(credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
            self.opened.append(channel_to(target, "ca", credentials))
            return self.opened[-1]

        return RenewedChannel(
            open_channel,
            FollowedFiles(self.files, log),
            log,
            on_change=lambda content: self.relied_on.append(min(content.ends)),
            monotonic=lambda: self.now,
            **options,
        )


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    return Caller(tmp_path, ReplicaRoot())


@contextlib.asynccontextmanager
async def called(caller: Caller, **options: Any) -> AsyncIterator[tuple[Replica, RenewedChannel]]:
    """Yield a replica and a channel to it."""
    async with (
        asyncio.timeout(60),
        caller.root.replica(b"one") as replica,
        caller.channel(f"127.0.0.1:{replica.port}", **options) as channel,
    ):
        yield replica, channel


async def replaced_ends(channel: RenewedChannel) -> None:
    """Return once what was replaced is closed; its own changes of state tell nobody reliably who waits meanwhile."""
    await asyncio.gather(*channel._replaced)


async def test_a_renewed_certificate_is_shown_by_the_next_calls(caller: Caller) -> None:
    async with called(caller) as (replica, channel):
        call = channel.unary_unary(CALL)
        first = caller.serial
        await call(b"")
        assert await channel.look() is None
        await call(b"")
        caller.renew()
        assert await channel.look() is None
        await call(b"")
        assert replica.serials == [first, first, caller.serial]
        assert (len(caller.opened), len(caller.relied_on)) == (2, 2)


async def test_calls_under_way_go_on_where_they_began_and_what_is_replaced_is_closed_after_them(caller: Caller) -> None:
    async with called(caller) as (replica, channel):
        first = caller.serial
        held = asyncio.ensure_future(channel.unary_unary(HOLD)(b""))
        watch = channel.unary_stream(WATCH)(b"")
        assert await watch.read() == b"one"
        await replica.entered.wait()
        caller.renew()
        assert await channel.look() is None
        assert await channel.unary_unary(CALL)(b"") == b"one"
        assert (replica.serials, not held.done()) == ([first, first, caller.serial], True)
        assert caller.opened[0].get_state() is grpc.ChannelConnectivity.READY
        replica.go_on.set()
        assert await held == b"one"
        assert await watch.read() == b"one"
        assert await watch.read() is grpc.aio.EOF
        await replaced_ends(channel)
        assert caller.opened[0].get_state() is grpc.ChannelConnectivity.SHUTDOWN
        assert await channel.unary_unary(CALL)(b"") == b"one"


async def test_a_replaced_channel_is_closed_after_a_grace_whatever_goes_on_over_it(caller: Caller) -> None:
    async with called(caller, grace_seconds=0.0) as (replica, channel):
        held = channel.unary_unary(HOLD)(b"")
        await replica.entered.wait()
        caller.renew()
        assert await channel.look() is None
        assert await held.code() is grpc.StatusCode.CANCELLED
        assert await channel.unary_unary(CALL)(b"") == b"one"


async def test_half_a_pair_is_not_shown(caller: Caller) -> None:
    async with called(caller) as (replica, channel):
        first, issued = caller.serial, caller.root.issue("directory")
        caller.put(caller.files.certificate, issued.certificate_pem)
        assert "not the certificate's" in str(await channel.look())
        await channel.unary_unary(CALL)(b"")
        caller.put(caller.files.private_key, issued.private_key_pem)
        assert await channel.look() is None
        await channel.unary_unary(CALL)(b"")
        assert replica.serials == [first, serial_of(issued.certificate_pem)]


async def test_what_the_other_end_refuses_does_not_take_over(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    async with called(caller) as (replica, channel):
        first = caller.serial
        await channel.unary_unary(CALL)(b"")
        foreign = ReplicaRoot()
        caller.put(caller.files.root or caller.files.certificate, foreign.root_pem)
        with monkeypatch.context() as patch:
            patch.setattr(renewed_channel, "READY_SECONDS", 1.0)
            assert "does not connect" in str(await channel.look())
        await channel.unary_unary(CALL)(b"")
        caller.put(caller.files.root or caller.files.certificate, caller.root.root_pem)
        assert await channel.look() is None
        await channel.unary_unary(CALL)(b"")
        assert replica.serials == [first] * 3


async def seen(channel: RenewedChannel, name: bytes) -> None:
    """Call until the replica of this name has answered."""
    while await channel.unary_unary(CALL)(b"", timeout=20) != name:
        pass


@contextlib.asynccontextmanager
async def two_replicas(caller: Caller) -> AsyncIterator[tuple[NameServer, RenewedChannel, Replica, Replica]]:
    """Yield two replicas, of which a name server knows the first alone, and a channel to their name."""
    async with (
        asyncio.timeout(60),
        caller.root.replica(b"one", address="127.0.0.2") as one,
        caller.root.replica(b"two", address="127.0.0.3", port=one.port) as two,
        name_server("127.0.0.2") as names,
        caller.channel(f"dns://127.0.0.1:{names.port}/ca.keypost.test:{one.port}") as channel,
    ):
        yield names, channel, one, two


async def test_a_replica_that_is_new_gets_calls_after_the_interval(caller: Caller) -> None:
    async with two_replicas(caller) as (names, channel, one, two):
        await seen(channel, b"one")
        names.addresses = ["127.0.0.2", "127.0.0.3"]
        caller.now = ADDRESSES_SECONDS - 1
        assert await channel.look() is None
        for _ in range(10):
            await channel.unary_unary(CALL)(b"")
        assert (len(one.serials), two.serials) == (11, [])
        caller.now = ADDRESSES_SECONDS
        assert await channel.look() is None
        await seen(channel, b"two")
        await seen(channel, b"one")
        assert len(caller.opened) == 2


async def test_addresses_where_nobody_answers_do_not_take_over(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_replicas(caller) as (names, channel, _, _):
        await seen(channel, b"one")
        names.addresses = ["127.0.0.9"]
        caller.now = ADDRESSES_SECONDS
        with monkeypatch.context() as patch:
            patch.setattr(renewed_channel, "READY_SECONDS", 1.0)
            assert "does not connect" in str(await channel.look())
        await seen(channel, b"one")
        names.addresses = ["127.0.0.3"]
        assert await channel.look() is None
        await seen(channel, b"two")


async def test_it_looks_by_itself(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewed_channel, "LOOK_SECONDS", 0.01)
    told: asyncio.Queue[str | None] = asyncio.Queue()
    async with called(caller) as (replica, channel):
        running = asyncio.ensure_future(channel.run(told.put_nowait))
        assert await told.get() is None
        caller.renew()
        while len(caller.relied_on) == 1:
            await told.get()
        await channel.unary_unary(CALL)(b"")
        assert replica.serials == [caller.serial]
        running.cancel()
        await asyncio.wait([running])
