"""The table of limits, and what an operator may write instead."""

from __future__ import annotations

import re

import pytest

from keypost.clock import DAY, HOUR, MINUTE, SECOND
from keypost_services.runtime.auth import CallerKind
from keypost_services.runtime.limits.ports import Quota
from keypost_services.runtime.limits.table import (
    METHOD_LIMITS,
    QUOTAS,
    REFLECTION_LIMITS,
    SIGN_IN_ADDRESS,
    SIGN_IN_RESERVE,
    SIGN_IN_USERNAME,
    UNKNOWN_USERS,
)
from keypost_services.runtime.limits.text import read_limits, write_quotas
from keypost_services.runtime.method_table import METHODS, REFLECTION_METHODS, Callers

SIGN_INS = {SIGN_IN_ADDRESS, SIGN_IN_USERNAME, SIGN_IN_RESERVE}
PROBES = "/grpc.health."


def kinds(callers: Callers) -> set[CallerKind]:
    admitted = {
        CallerKind.ANYONE: callers.anyone,
        CallerKind.DEVICE: callers.devices,
        CallerKind.SERVICE: bool(callers.services),
        CallerKind.ADMINISTRATOR: callers.administrators,
    }
    return {kind for kind, is_admitted in admitted.items() if is_admitted}


def test_every_method_that_is_served_has_its_limits_and_no_other() -> None:
    assert set(METHOD_LIMITS) == set(METHODS)
    assert set(REFLECTION_LIMITS) == set(REFLECTION_METHODS)


def test_every_caller_that_a_method_admits_is_limited_unless_it_is_a_probe() -> None:
    for method, callers in METHODS.items():
        limited = {kind for kind, names in METHOD_LIMITS[method].limits.items() if names}
        assert limited >= kinds(callers) - ({CallerKind.ANYONE} if method.startswith(PROBES) else set()), method


def test_every_limit_has_its_quotas_and_every_quota_is_used() -> None:
    used = {name for row in METHOD_LIMITS.values() for names in row.limits.values() for name in names}
    assert used | SIGN_INS == set(QUOTAS)


def test_what_somebody_could_guess_by_is_refused_while_nobody_counts_and_nothing_else() -> None:
    strict = {method.rpartition("/")[2] for method, row in METHOD_LIMITS.items() if row.strict}
    assert strict == {"BeginEnrollment", "Enroll", "RequestReset"}


def test_an_hour_may_not_hold_more_than_its_minutes_do() -> None:
    for name, quotas in QUOTAS.items():
        most = [quota.most for quota in quotas]
        rates = [quota.most / quota.period for quota in quotas]
        assert most == sorted(most), name
        assert rates == sorted(rates, reverse=True), name


def test_failed_sign_ins_wait_ever_longer_and_never_for_an_hour() -> None:
    for name in SIGN_INS - {SIGN_IN_RESERVE}:
        intervals = [quota.interval // 1_000 for quota in QUOTAS[name]]
        assert intervals == sorted(intervals)
        assert intervals[-1] < HOUR
    assert [quota.interval // 1_000 for quota in QUOTAS[SIGN_IN_USERNAME]] == [12 * SECOND, 3 * MINUTE, 28.8 * MINUTE]


def test_much_fewer_unknown_users_may_be_asked_for_than_known_ones() -> None:
    (unknown,) = QUOTAS[UNKNOWN_USERS]
    assert unknown.most * 100 <= QUOTAS["look_ups"][-1].most


def test_an_operator_writes_limits_by_name() -> None:
    assert read_limits("") == {}
    assert read_limits(" Receive = 60/1m , look_ups=600/10m + 20000/2d,Send=none,") == {
        "Receive": (Quota(60, MINUTE),),
        "look_ups": (Quota(600, 10 * MINUTE), Quota(20_000, 2 * DAY)),
        "Send": (),
    }
    assert read_limits("Send=1/1s+1/1h")["Send"] == (Quota(1, SECOND), Quota(1, HOUR))


@pytest.mark.parametrize("name", QUOTAS)
def test_what_is_written_is_read_as_it_was(name: str) -> None:
    assert read_limits(f"{name}={write_quotas(QUOTAS[name])}") == {name: QUOTAS[name]}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Recieve=60/1m", "there is no limit 'Recieve'; is it Receive?"),
        ("xyz=60/1m", "there is no limit 'xyz'"),
        ("Receive", "'Receive' must be NAME=MOST/PERIOD"),
        ("Receive=", "'' must be MOST/PERIOD"),
        ("Receive=60", "'60' must be MOST/PERIOD"),
        ("Receive=60/m", "'60/m' must be MOST/PERIOD"),
        ("Receive=-1/1m", "'-1/1m' must be MOST/PERIOD"),
        ("Receive=\uff11/1m", "must be MOST/PERIOD"),
        ("Receive=0/1m", "'0/1m' must be 1 to 1000000"),
        ("Receive=1/0s", "'1/0s' must be 1 to 1000000"),
        ("Receive=1/31d", "in 1 second to 30 days"),
        ("Receive=1/1m,Receive=none", "Receive stands there twice"),
    ],
)
def test_what_an_operator_mistypes_is_named(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        read_limits(text)
