"""Who guesses, tries out names or floods; against services that count in a Valkey, by clients that are not ours."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.directory.v1 import directory_service_pb2 as directory_pb
from support.ca_service import REALM, CaUnderTest, elsewhere, open_ca
from support.delivery import until
from support.plain_client import reason
from support.plain_stack import open_plain_stack
from support.plain_world import PlainWorld
from support.refusals import refused, served
from support.valkey import ValkeyServer, running_valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from support.delivery import Stack
    from support.plain_client import PlainDevice
    from support.plain_stack import PlainStack

GUESS = pb.SignIn(one_time_code="0" * 26)
FEW = "look_ups=10/1d,unknown_users=5/1d"
SLOWED = "keypost_limits_slowed_total"


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path / "valkey") as server:
        yield server


@asynccontextmanager
async def counting_ca(folder: Path, valkey: ValkeyServer, limits: str = "") -> AsyncIterator[CaUnderTest]:
    """Serve a CA that asks for codes and counts failures."""
    counted: dict[str, Any] = {"limits_url": valkey.url, "limits": limits, "limits_timeout_seconds": 5}
    async with open_ca(folder, sign_in="code", **counted) as ca:
        yield ca


async def begin(ca: CaUnderTest, username: str, sign_in: pb.SignIn = GUESS) -> None:
    request = pb.BeginEnrollmentRequest(username=username, sign_in=sign_in)
    await (await ca.devices()).BeginEnrollment(request, timeout=20)


async def ask_reset(ca: CaUnderTest, username: str) -> None:
    await (await ca.devices()).RequestReset(pb.RequestResetRequest(username=username, sign_in=GUESS), timeout=20)


async def test_codes_of_many_users_guessed_from_one_address(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with counting_ca(tmp_path, valkey, "sign_in_address=4/1d") as ca:
        for number in range(4):
            await refused(begin(ca, f"user{number}"), "SIGN_IN_REFUSED")
        await refused(begin(ca, "alice", await ca.code("alice")), "RATE_LIMITED")


async def test_codes_of_one_user_guessed_by_whatever_method(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with counting_ca(tmp_path, valkey, "sign_in_username=2/1d,sign_in_reserve=1/1d") as ca:
        await refused(begin(ca, "alice"), "SIGN_IN_REFUSED")
        await refused(ask_reset(ca, "alice"), "SIGN_IN_REFUSED")
        await refused(begin(ca, "alice"), "SIGN_IN_REFUSED")  # what this address has in reserve
        await refused(begin(ca, "alice", await ca.code("alice")), "RATE_LIMITED")


def guess(stub: Any, username: str, sign_in: pb.SignIn = GUESS) -> Any:
    return stub.BeginEnrollment(pb.BeginEnrollmentRequest(username=username, sign_in=sign_in), timeout=20)


async def test_codes_of_one_user_guessed_from_many_addresses(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with counting_ca(tmp_path, valkey, "sign_in_username=2/1d,sign_in_reserve=1/1d") as ca:
        for number in (2, 3):
            async with elsewhere(ca, f"127.0.0.{number}") as stub:
                await refused(guess(stub, "alice"), "SIGN_IN_REFUSED")
        async with elsewhere(ca, "127.0.0.4") as stub:
            await refused(guess(stub, "alice"), "SIGN_IN_REFUSED")
            await refused(guess(stub, "alice", await ca.code("alice")), "RATE_LIMITED")


async def test_a_user_kept_out_by_the_failures_of_others(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with counting_ca(tmp_path, valkey) as ca:
        reasons = [await reason(begin(ca, "alice")) for _ in range(12)]
        assert reasons[-1] == "RATE_LIMITED"
        async with elsewhere(ca, "127.0.0.2") as stub:
            await served(guess(stub, "alice", await ca.code("alice")))


async def test_codes_guessed_all_at_once(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with counting_ca(tmp_path, valkey) as ca:
        stub = await ca.devices()
        reasons = await asyncio.gather(*(reason(guess(stub, "alice")) for _ in range(30)))
        assert reasons.count("SIGN_IN_REFUSED") == 5 + 3


async def test_a_sign_in_of_ones_own_between_two_guesses(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with counting_ca(tmp_path, valkey, "sign_in_address=4/1d") as ca:
        own = await ca.code("mallory")
        for number in range(3):
            await refused(begin(ca, f"user{number}"), "SIGN_IN_REFUSED")
            await served(begin(ca, "mallory", own))
        await refused(begin(ca, "alice"), "SIGN_IN_REFUSED")
        await refused(begin(ca, "alice", await ca.code("alice")), "RATE_LIMITED")


async def test_codes_guessed_while_nobody_counts(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with counting_ca(tmp_path, valkey) as ca:
        right = await ca.code("alice")
        valkey.kill()
        await refused(begin(ca, "alice", right), "LIMITS_UNAVAILABLE")


async def test_whether_a_user_exists_is_told_by_the_waits(tmp_path: Path, valkey: ValkeyServer) -> None:
    """The same number of guesses is looked at for Alice and for nobody."""
    async with counting_ca(tmp_path, valkey, "sign_in_address=none,Enroll=none,BeginEnrollment=none") as ca:
        await ca.enroll("alice", await ca.code("alice"))
        told = {name: [await reason(begin(ca, name)) for _ in range(10)] for name in ("alice", "nobody")}
        assert told["alice"] == told["nobody"] == ["SIGN_IN_REFUSED"] * 8 + ["RATE_LIMITED"] * 2


async def look_up(device: PlainDevice, username: str) -> None:
    """Look a user up with a token of its own."""
    directory: Any = device.directory
    metadata = device.metadata(device.token(aud=f"{REALM}/directory", jti=username))
    await directory.GetKeyInfo(directory_pb.GetKeyInfoRequest(username=username), metadata=metadata, timeout=20)


async def look_up_many(device: PlainDevice, *usernames: str) -> None:
    directory: Any = device.directory
    metadata = device.metadata(device.token(aud=f"{REALM}/directory"))
    request = directory_pb.BatchGetKeyInfoRequest(usernames=usernames)
    await directory.BatchGetKeyInfo(request, metadata=metadata, timeout=20)


@pytest.fixture
async def few(tmp_path: Path) -> AsyncIterator[PlainStack]:
    """All services, with little to look up for anybody."""
    async with open_plain_stack(tmp_path, FEW) as stack:
        yield stack


async def test_names_tried_out_with_many_tokens_of_one_device(few: PlainStack) -> None:
    mallory = await few.enroll("mallory")
    for number in range(5):
        await refused(look_up(mallory, f"user{number}"), "USER_NOT_FOUND")
    await refused(look_up(mallory, "mallory"), "RATE_LIMITED")
    await served(look_up(await few.enroll("alice"), "mallory"))


async def test_names_tried_out_by_the_batch(few: PlainStack) -> None:
    mallory = await few.enroll("mallory")
    await served(look_up_many(mallory, *(f"user{number}" for number in range(6))))
    await refused(look_up(mallory, "mallory"), "RATE_LIMITED")


async def test_users_looked_up_by_the_batch(few: PlainStack) -> None:
    mallory = await few.enroll("mallory")
    names = [(await few.enroll(name)).pair.address.username for name in ("alice", "bob", "carol")]
    for _ in range(3):
        await served(look_up_many(mallory, *names))
    await refused(look_up_many(mallory, *names), "RATE_LIMITED")


async def test_names_tried_out_by_sending(delivery_stack: Stack) -> None:
    world = await PlainWorld(delivery_stack).start(limits="unknown_users=3/1d")
    for number in range(3):
        delivery_stack.realm.enroll(name := f"user{number}")
        envelope = await world.mallory.envelope(name)
        del delivery_stack.realm.users[name]
        await refused(world.mallory.deliver(envelope), "USER_NOT_FOUND")
    await refused(world.mallory.send("bob"), "RATE_LIMITED")
    await served(world.alice.send("bob"))


async def test_a_flood_of_messages_from_one_device(delivery_stack: Stack) -> None:
    world = await PlainWorld(delivery_stack).start(limits="Send=3/1d")
    for _ in range(3):
        await served(world.mallory.send("bob"))
    await refused(world.mallory.send("bob"), "RATE_LIMITED")
    await served(world.alice.send("bob"))


async def test_names_tried_out_by_sending_many_at_once(delivery_stack: Stack) -> None:
    """All at once: each counts before the next is looked up."""
    world = await PlainWorld(delivery_stack).start(limits="unknown_users=3/1d")
    envelopes = []
    for number in range(10):
        delivery_stack.realm.enroll(name := f"user{number}")
        envelopes.append(await world.mallory.envelope(name))
        del delivery_stack.realm.users[name]
    before = world.look_ups
    async with world.mallory.stream() as stream:
        await refused(stream.results(*envelopes), "RATE_LIMITED", harm="USER_NOT_FOUND")
    assert world.look_ups - before <= 3 + 1
    await served(world.alice.send("bob"))


async def test_a_flood_of_messages_over_a_stream(delivery_stack: Stack) -> None:
    """What is over the quota is not read: a whole batch counts, and the stream is slowed for good."""
    world = await PlainWorld(delivery_stack).start(limits="Send=4/1d")
    batch = [await world.mallory.envelope("bob") for _ in range(8)]
    async with world.mallory.stream() as stream:
        await served(stream.results(*batch[:4]))
        later = asyncio.ensure_future(stream.results(*batch[4:]))
        await until(lambda: later.done() or bool(world.world.counted(SLOWED, limit="Send")))
        assert not later.done(), "the flood went on"
        later.cancel()
    await refused(world.mallory.send("bob"), "RATE_LIMITED")
    await served(world.alice.send("bob"))
    assert len(await world.bob.waiting()) == 5


async def test_a_flood_from_one_address(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with counting_ca(tmp_path, valkey, "GetRealmTrust=3/1d") as ca:
        stub = await ca.devices()
        for _ in range(3):
            await served(stub.GetRealmTrust(pb.GetRealmTrustRequest(), timeout=20))
        await refused(stub.GetRealmTrust(pb.GetRealmTrustRequest(), timeout=20), "RATE_LIMITED")


async def test_names_tried_out_by_beginning_renewals_and_approvals(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with counting_ca(tmp_path, valkey, "BeginRenewal=2/1d,BeginApproval=2/1d") as ca:
        stub: Any = await ca.devices()
        renewal = pb.BeginRenewalRequest(username="nobody", device_id="a" * 16)
        for call, request in (
            (stub.BeginRenewal, renewal),
            (stub.BeginApproval, pb.BeginApprovalRequest(username="nobody")),
        ):
            for _ in range(2):
                await served(call(request, timeout=20))
            await refused(call(request, timeout=20), "RATE_LIMITED")


async def test_a_new_key_for_a_new_share(few: PlainStack) -> None:
    """What a device has used up it has used up, whatever its key: renewals do not refill it."""
    mallory = await few.enroll("mallory")
    for number in range(5):
        await refused(look_up(mallory, f"user{number}"), "USER_NOT_FOUND")
    mallory.pair = await few.ca.renew(mallory.pair)
    await refused(look_up(mallory, "mallory"), "RATE_LIMITED")
