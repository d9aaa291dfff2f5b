"""Of many calls that end alike some have a line, and what is seldom always has one."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from keypost_services.runtime.call_log import SLOW_SECONDS, CallLog
from keypost_services.runtime.logs import make_logger

SEND, RECEIVE = "/keypost.delivery.v1.DeliveryService/Send", "/keypost.delivery.v1.DeliveryService/Receive"
CHECK = "/grpc.health.v1.Health/Check"


class Bench:
    def __init__(self, per_second: int = 2, level: str = "info") -> None:
        self.now = 0.0
        self.output = io.StringIO()
        self.calls = CallLog(make_logger("s", level, "json", self.output), per_second, monotonic=lambda: self.now)

    def end(self, number: int, method: str = SEND, code: str = "OK", reason: str = "", seconds: float = 0.01) -> None:
        for _ in range(number):
            self.calls.ended(method, code, reason, seconds)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.getvalue().splitlines()]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_line_says_how_a_call_ended(bench: Bench) -> None:
    bench.end(1, code="UNAVAILABLE", reason="CA_UNAVAILABLE", seconds=0.0123)
    (line,) = bench.lines
    assert (line["event"], line["method"], line["code"]) == ("call", SEND, "UNAVAILABLE")
    assert (line["reason"], line["milliseconds"]) == ("CA_UNAVAILABLE", 12.3)
    assert "left_out" not in line


def test_of_many_a_second_some_have_a_line_and_the_next_one_says_how_many_have_none(bench: Bench) -> None:
    bench.end(100)
    bench.now = 1.0
    bench.end(3)
    assert [line.get("left_out") for line in bench.lines] == [None, None, 98, None]
    bench.now = 2.0
    bench.end(1)
    assert bench.lines[-1]["left_out"] == 1


def test_what_ends_otherwise_has_a_line_however_many_there_are(bench: Bench) -> None:
    bench.end(100)
    bench.end(1, RECEIVE)
    bench.end(1, code="RESOURCE_EXHAUSTED", reason="RATE_LIMITED")
    bench.end(1, code="RESOURCE_EXHAUSTED", reason="MAILBOX_FULL")
    bench.end(1, seconds=SLOW_SECONDS)
    others = [(line["method"], line["reason"], line["milliseconds"]) for line in bench.lines[2:]]
    assert others == [(RECEIVE, "", 10), (SEND, "RATE_LIMITED", 10), (SEND, "MAILBOX_FULL", 10), (SEND, "", 1_000)]


def test_a_flood_of_refusals_is_no_flood_of_lines(bench: Bench) -> None:
    bench.end(10_000, code="UNAUTHENTICATED", reason="TOKEN_REFUSED")
    assert len(bench.lines) == 2


def test_there_may_be_none(bench: Bench) -> None:
    bench = Bench(0)
    bench.end(10)
    assert not bench.lines


def test_probes_are_for_whoever_looks_for_faults() -> None:
    for level, number in (("info", 0), ("debug", 1)):
        bench = Bench(level=level)
        bench.end(1, CHECK)
        assert len(bench.lines) == number


def test_a_call_that_a_trace_leads_to_always_has_its_line(bench: Bench) -> None:
    bench.end(5)
    for _ in range(3):
        bench.calls.ended(SEND, "OK", "", 0.01, is_recorded=True)
    assert len(bench.lines) == 2 + 3
