from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from keypost.protocol.identifiers import Address
from keypost_services.runtime.auth import Caller, CallerKind
from keypost_services.runtime.calls_under_way import CallsUnderWay
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

ALICE = Caller(CallerKind.DEVICE, "ipv4:192.0.2.1:1", Address("alice", "aaaaaaaaaaaaaaaa"))
BOB = Caller(CallerKind.DEVICE, "ipv4:192.0.2.1:1", Address("bob", "bbbbbbbbbbbbbbbb"))
STRANGER = Caller(CallerKind.ANYONE, "ipv4:192.0.2.1:1")
SAME_STRANGER = Caller(CallerKind.ANYONE, "ipv4:192.0.2.1:2")
OTHER_STRANGER = Caller(CallerKind.ANYONE, "ipv4:192.0.2.2:1")
DELIVERY = Caller(CallerKind.SERVICE, "ipv4:192.0.2.1:1", service="delivery")


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


def call(stack: contextlib.ExitStack, limits: CallsUnderWay, caller: Caller, *, streaming: bool = False) -> None:
    with contextlib.ExitStack() as both:
        both.enter_context(limits.any_call())
        both.enter_context(limits.call_of(caller, streaming=streaming))
        stack.push(both.pop_all())


def refused(stack: contextlib.ExitStack, limits: CallsUnderWay, caller: Caller, *, streaming: bool = False) -> str:
    with pytest.raises(ServiceError, match="too many") as caught:
        call(stack, limits, caller, streaming=streaming)
    assert (caught.value.reason, caught.value.retry_after_ms) == ("RATE_LIMITED", 1_000)
    return caught.value.message


def test_a_caller_has_so_many_calls_and_no_more_until_one_ends(stack: contextlib.ExitStack) -> None:
    limits = CallsUnderWay(100, 2)
    with contextlib.ExitStack() as first:
        call(first, limits, ALICE, streaming=True)
        call(first, limits, ALICE)
        assert refused(stack, limits, ALICE) == "too many calls of this caller under way"
        call(stack, limits, BOB)
    call(stack, limits, ALICE)


def test_a_caller_never_has_more_than_half(stack: contextlib.ExitStack) -> None:
    limits = CallsUnderWay(4, 1_000)
    call(stack, limits, ALICE)
    call(stack, limits, ALICE)
    refused(stack, limits, ALICE)
    call(stack, limits, BOB)


def test_callers_unknown_count_by_their_network_address(stack: contextlib.ExitStack) -> None:
    limits = CallsUnderWay(100, 1)
    call(stack, limits, STRANGER)
    refused(stack, limits, SAME_STRANGER)
    call(stack, limits, OTHER_STRANGER)


def test_streams_leave_room_for_calls_that_end(stack: contextlib.ExitStack) -> None:
    limits = CallsUnderWay(10, 5)
    for number in range(8):
        call(stack, limits, [ALICE, BOB][number % 2], streaming=True)
    assert refused(stack, limits, STRANGER, streaming=True) == "too many streams under way"
    call(stack, limits, STRANGER)
    call(stack, limits, DELIVERY, streaming=True)


def test_altogether_there_are_so_many(stack: contextlib.ExitStack) -> None:
    limits = CallsUnderWay(2, 1)
    call(stack, limits, ALICE)
    call(stack, limits, BOB)
    assert refused(stack, limits, DELIVERY) == "too many calls under way"


def test_services_are_not_counted_one_by_one(stack: contextlib.ExitStack) -> None:
    limits = CallsUnderWay(10, 1)
    for _ in range(9):
        call(stack, limits, DELIVERY, streaming=True)


def test_an_administrator_counts_by_name_wherever_the_call_comes_from(stack: contextlib.ExitStack) -> None:
    limits = CallsUnderWay(10, 1)
    call(stack, limits, Caller(CallerKind.ADMINISTRATOR, "ipv4:192.0.2.1:1", administrator="ada"))
    refused(stack, limits, Caller(CallerKind.ADMINISTRATOR, "ipv4:192.0.2.9:1", administrator="ada"))
    call(stack, limits, STRANGER)
