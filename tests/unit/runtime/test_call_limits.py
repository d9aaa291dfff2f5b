"""Calls are held against their limits before the work is done; users that do not exist count for more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY, HOUR
from keypost.directory.v1 import directory_service_pb2 as pb
from keypost.protocol.identifiers import Address
from keypost_services.runtime.auth import Caller, CallerKind
from keypost_services.runtime.errors import ServiceError
from keypost_services.runtime.limits.call_limits import CallLimits, note_unknown_users
from keypost_services.runtime.limits.table import METHOD_LIMITS
from keypost_services.runtime.requests import user_not_found
from support.clock import ManualClock
from support.limits import local_limits
from support.realm import device_id

if TYPE_CHECKING:
    from collections.abc import Iterable

TRUST = "/keypost.ca.v1.CertificateAuthorityService/GetRealmTrust"
ENROLL = "/keypost.ca.v1.CertificateAuthorityService/Enroll"
RENEW = "/keypost.ca.v1.CertificateAuthorityService/Renew"
ONE, MANY = (f"/keypost.directory.v1.DirectoryService/{name}" for name in ("GetKeyInfo", "BatchGetKeyInfo"))
SEND = "/keypost.delivery.v1.DeliveryService/Send"
CHECK = "/grpc.health.v1.Health/Check"
PEER = "ipv4:192.0.2.1:4711"
FEW = "look_ups=10/1m,unknown_users=3/1d,GetRealmTrust=2/1m,Enroll=2/1m,Renew=2/1m,Send=2/1m"


def device(number: int = 1, peer: str = PEER) -> Caller:
    return Caller(CallerKind.DEVICE, peer, Address("alice", device_id(number)))


def stranger(peer: str = PEER) -> Caller:
    return Caller(CallerKind.ANYONE, peer)


DELIVERY = Caller(CallerKind.SERVICE, PEER, service="delivery")


class Bench:
    def __init__(self, text: str = FEW, *, away: bool = False) -> None:
        self.clock = ManualClock()
        self.limits = CallLimits(local_limits(self.clock, text, away=away), METHOD_LIMITS, self.clock)

    async def call(self, method: str, caller: Caller, request: Any = None, unknown: Iterable[str] = ()) -> str:
        """Return the reason of a refusal, "" if the call is served; it finds these users not to exist."""
        unknown = list(unknown)
        try:
            async with self.limits.counting(method, caller):
                await self.limits.admit(method, caller, request)
                if method != MANY and unknown:
                    raise user_not_found(unknown[0])
                note_unknown_users(unknown)
        except ServiceError as error:
            return error.reason
        return ""

    async def calls(self, number: int, method: str, caller: Caller) -> list[str]:
        return [await self.call(method, caller) for _ in range(number)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_device_is_counted_whatever_its_key_and_wherever_it_is(bench: Bench) -> None:
    assert await bench.calls(1, SEND, device()) == [""]
    assert await bench.calls(2, SEND, device(peer="ipv4:198.51.100.1:1")) == ["", "RATE_LIMITED"]
    assert await bench.calls(1, SEND, device(2)) == [""]


async def test_strangers_are_counted_by_network(bench: Bench) -> None:
    assert await bench.calls(3, TRUST, stranger()) == ["", "", "RATE_LIMITED"]
    assert await bench.calls(1, TRUST, stranger("ipv4:192.0.2.2:4711")) == [""]
    network = [stranger(f"ipv6:%5B2001:db8::{number:x}%5D:1") for number in range(3)]
    assert [await bench.call(TRUST, caller) for caller in network] == ["", "", "RATE_LIMITED"]
    assert await bench.calls(1, TRUST, stranger("ipv6:%5B2001:db8:0:1::1%5D:1")) == [""]


async def test_methods_are_counted_apart_and_look_ups_together(bench: Bench) -> None:
    assert await bench.calls(3, ENROLL, stranger()) == ["", "", "RATE_LIMITED"]
    assert await bench.calls(1, RENEW, stranger()) == [""]
    assert await bench.calls(6, ONE, device()) == [""] * 6
    assert await bench.call(MANY, device(), pb.BatchGetKeyInfoRequest(usernames=list("abcd"))) == ""
    assert await bench.calls(1, ONE, device()) == ["RATE_LIMITED"]


async def test_a_batch_costs_as_much_as_it_asks_for(bench: Bench) -> None:
    assert await bench.call(MANY, device(), pb.BatchGetKeyInfoRequest(usernames=list("abcdefgh"))) == ""
    assert await bench.call(MANY, device(), pb.BatchGetKeyInfoRequest(usernames=list("abc"))) == "RATE_LIMITED"
    assert await bench.call(MANY, device(), pb.BatchGetKeyInfoRequest(usernames=list("ab"))) == ""
    # What is refused for its size, or has none, is not free.
    assert await bench.call(MANY, device(2), SimpleNamespace(usernames=["x"] * 10**6)) == ""
    assert await bench.call(MANY, device(2)) == "RATE_LIMITED"


async def test_services_and_probes_are_not_limited_unless_an_operator_says_so(bench: Bench) -> None:
    assert set(await bench.calls(10_000, ONE, DELIVERY)) == {""}
    assert set(await bench.calls(1_000, CHECK, stranger())) == {""}
    assert await Bench("service_calls=2/1s").calls(3, ONE, DELIVERY) == ["", "", "RATE_LIMITED"]


async def test_who_asks_for_users_that_do_not_exist_soon_asks_for_nobody(bench: Bench) -> None:
    reasons = [await bench.call(ONE, device(), unknown=[f"user{number}"]) for number in range(5)]
    assert reasons == ["USER_NOT_FOUND"] * 3 + ["RATE_LIMITED"] * 2
    # Those that do exist are refused too: otherwise the refusal would tell which do.
    assert await bench.call(ONE, device()) == "RATE_LIMITED"
    assert await bench.call(SEND, device()) == "RATE_LIMITED"
    assert await bench.call(ONE, device(2)) == ""
    bench.clock.advance(8 * HOUR)
    assert await bench.call(ONE, device()) == ""


async def test_a_batch_of_users_that_do_not_exist_is_owed(bench: Bench) -> None:
    names = [f"user{number}" for number in range(6)]
    assert await bench.call(MANY, device(), pb.BatchGetKeyInfoRequest(usernames=names), unknown=names) == ""
    bench.clock.advance(DAY)
    assert await bench.call(ONE, device()) == "RATE_LIMITED"
    bench.clock.advance(8 * HOUR)
    assert await bench.call(ONE, device()) == ""


async def test_sends_to_nobody_count_as_look_ups_do(bench: Bench) -> None:
    assert await bench.call(SEND, device(), unknown=["nobody"]) == "USER_NOT_FOUND"
    assert await bench.call(MANY, device(), unknown=["a", "b"]) == ""
    assert await bench.call(SEND, device()) == "RATE_LIMITED"


async def test_to_ask_for_the_same_unknown_user_again_is_no_new_guess(bench: Bench) -> None:
    assert [await bench.call(ONE, device(), unknown=["nobody"]) for _ in range(9)] == ["USER_NOT_FOUND"] * 9
    assert await bench.call(ONE, device(2), unknown=["nobody"]) == "USER_NOT_FOUND"
    assert await bench.call(ONE, device(), unknown=["somebody"]) == "USER_NOT_FOUND"
    assert await bench.call(ONE, device(), unknown=["anybody"]) == "RATE_LIMITED"


async def test_services_may_ask_for_users_that_do_not_exist(bench: Bench) -> None:
    reasons = [await bench.call(ONE, DELIVERY, unknown=[f"user{number}"]) for number in range(20)]
    assert reasons == ["USER_NOT_FOUND"] * 20


async def test_outside_of_a_call_nothing_is_noted() -> None:
    note_unknown_users(["nobody"])


async def test_what_has_no_row_is_served_to_nobody(bench: Bench) -> None:
    assert await bench.call("/example.Other/Method", stranger()) == "METHOD_NOT_ADMITTED"


async def test_with_the_server_away_enrolment_is_refused_and_the_rest_is_counted_here() -> None:
    bench = Bench(away=True)
    assert await bench.calls(1, ENROLL, stranger()) == ["LIMITS_UNAVAILABLE"]
    assert await bench.calls(3, RENEW, stranger()) == ["", "", "RATE_LIMITED"]
    assert await bench.calls(3, SEND, device()) == ["", "", "RATE_LIMITED"]
    reasons = [await bench.call(ONE, device(2), unknown=[f"user{number}"]) for number in range(4)]
    assert reasons == ["USER_NOT_FOUND"] * 3 + ["RATE_LIMITED"]
