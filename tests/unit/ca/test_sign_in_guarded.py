"""Failed sign-ins are counted, for address and username, and nobody is kept out for ever."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from grpc import StatusCode

from keypost.clock import DAY, HOUR, MINUTE, SECOND
from keypost_services.ca.sign_in.guarded import GuardedSignIn
from keypost_services.ca.sign_in.port import Grant, Proof, SignInRefusedError
from keypost_services.runtime.auth import Call, Caller, CallerKind, set_current_call
from keypost_services.runtime.errors import ServiceError, SourceAwayError
from support.clock import ManualClock
from support.limits import local_limits

if TYPE_CHECKING:
    from keypost_services.runtime.limits.call_limits import Limits

RIGHT, WRONG = Proof(code="right"), Proof(code="wrong")
HERE, ELSEWHERE = "192.0.2.1", "198.51.100.1"


@dataclass
class Codes:
    """A SignIn that admits the right code, and notes what it was asked."""

    asked: list[str] = field(default_factory=list)
    broken: bool = False
    slow: bool = False
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def admit(self, username: str, proof: Proof, fingerprint: bytes | None) -> Grant:
        del fingerprint
        self.asked.append(username)
        await asyncio.sleep(0)
        if self.slow:
            self.reached.set()
            await asyncio.Event().wait()
        if self.broken:
            raise SourceAwayError("the issuer does not answer")
        if proof != RIGHT:
            raise SignInRefusedError("UNKNOWN_CODE")
        return Grant()


def reason_of(error: Exception | None) -> str:
    if isinstance(error, ServiceError):
        return error.reason
    return "" if error is None else type(error).__name__


class Bench:
    def __init__(self, limits: Limits | None = None) -> None:
        self.clock = ManualClock()
        self.codes = Codes()
        self.sign_in = GuardedSignIn(self.codes, limits or local_limits(self.clock))

    async def attempt(self, username: str, proof: Proof, address: str = HERE) -> Exception | None:
        set_current_call(Call(Caller(CallerKind.ANYONE, f"ipv4:{address}:4711"), "request"))
        try:
            await self.sign_in.admit(username, proof, None)
        except (ServiceError, SignInRefusedError, SourceAwayError) as error:
            return error
        return None

    async def reasons(self, number: int, username: str, address: str = HERE) -> list[str]:
        return [reason_of(await self.attempt(username, WRONG, address)) for _ in range(number)]

    async def longest_wait(self, username: str, failures: int) -> int:
        """Fail so often, each time as soon as it is allowed; return how long that took at most between two."""
        longest = waited = 0
        while failures:
            error = await self.attempt(username, WRONG)
            if isinstance(error, SignInRefusedError):
                failures, waited = failures - 1, 0
                continue
            assert isinstance(error, ServiceError)
            assert error.retry_after_ms is not None
            self.clock.advance(error.retry_after_ms)
            waited += error.retry_after_ms
            longest = max(longest, waited)
        return longest


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_who_signs_in_is_never_kept_waiting(bench: Bench) -> None:
    assert [await bench.attempt("alice", RIGHT) for _ in range(500)] == [None] * 500


async def test_what_fails_is_counted_for_the_username_wherever_it_comes_from(bench: Bench) -> None:
    reasons = [(await bench.reasons(1, "alice", f"192.0.2.{number}"))[0] for number in range(5)]
    assert reasons == ["SignInRefusedError"] * 5
    # Beyond that each address has its reserve alone.
    assert await bench.reasons(4, "alice", "192.0.2.99") == ["SignInRefusedError"] * 3 + ["RATE_LIMITED"]
    assert await bench.reasons(1, "bob", "192.0.2.99") == ["SignInRefusedError"]


async def test_what_fails_is_counted_for_the_address_whoever_it_is_for(bench: Bench) -> None:
    reasons = [(await bench.reasons(1, f"user{number}"))[0] for number in range(31)]
    assert reasons == ["SignInRefusedError"] * 30 + ["RATE_LIMITED"]
    assert len(bench.codes.asked) == 30
    assert await bench.reasons(1, "user99", ELSEWHERE) == ["SignInRefusedError"]


async def test_the_waits_grow_to_half_an_hour_and_no_further(bench: Bench) -> None:
    assert await bench.longest_wait("alice", 8) <= 12 * SECOND + 1
    assert await bench.longest_wait("alice", 20) <= 3 * MINUTE + 1
    assert MINUTE < await bench.longest_wait("alice", 100) <= 29 * MINUTE < HOUR


async def test_a_day_of_guessing_gets_little_more_than_a_hundred_guesses_at_a_username(bench: Bench) -> None:
    end = bench.clock() + DAY
    while bench.clock() < end:
        await bench.longest_wait("alice", 1)
    assert len(bench.codes.asked) <= 50 + 50 + 3 + 3


async def test_the_success_of_one_does_not_wipe_out_the_failures_of_others(bench: Bench) -> None:
    for number in range(30):
        await bench.attempt(f"user{number}", WRONG)
    bench.clock.advance(2 * SECOND)
    assert await bench.attempt("mallory", RIGHT) is None
    assert await bench.attempt("mallory", RIGHT) is None
    assert await bench.reasons(2, "alice") == ["SignInRefusedError", "RATE_LIMITED"]


async def test_nobody_keeps_a_user_out_who_comes_from_elsewhere(bench: Bench) -> None:
    for number in range(200):
        await bench.attempt("alice", WRONG, f"192.0.2.{number}")
        bench.clock.advance(MINUTE)
    assert await bench.attempt("alice", WRONG, ELSEWHERE) is not None
    assert await bench.attempt("alice", RIGHT, ELSEWHERE) is None
    assert await bench.attempt("alice", RIGHT, ELSEWHERE) is None


async def test_guesses_at_once_get_no_more_than_one_after_the_other(bench: Bench) -> None:
    errors = await asyncio.gather(*(bench.attempt("alice", WRONG) for _ in range(100)))
    assert [reason_of(error) for error in errors].count("SignInRefusedError") == 5 + 3
    assert len(bench.codes.asked) == 5 + 3


async def test_what_fails_for_another_reason_is_no_guess(bench: Bench) -> None:
    bench.codes.broken = True
    assert await bench.reasons(100, "alice") == ["SourceAwayError"] * 100


async def test_while_nobody_counts_nobody_is_asked() -> None:
    bench = Bench(local_limits(ManualClock(), away=True))
    error = await bench.attempt("alice", RIGHT)
    assert isinstance(error, ServiceError)
    assert (error.code, error.reason, error.retry_after_ms) == (StatusCode.UNAVAILABLE, "LIMITS_UNAVAILABLE", 2_000)
    assert bench.codes.asked == []


async def test_who_hangs_up_before_the_answer_is_not_counted(bench: Bench) -> None:
    bench.codes.slow = True
    for _ in range(40):
        bench.codes.reached.clear()
        attempt = asyncio.create_task(bench.attempt("alice", WRONG))
        async with asyncio.timeout(5):
            await bench.codes.reached.wait()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
    assert len(bench.codes.asked) == 40
    bench.codes.slow = False
    assert await bench.reasons(5, "alice") == ["SignInRefusedError"] * 5
