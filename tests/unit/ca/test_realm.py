"""Which record key signs when, and what may take the place of the statement that is served."""

from __future__ import annotations

import pytest

from keypost.clock import DAY, HOUR
from keypost.protocol.errors import TrustRegressedError, UnknownRecordKeyError
from keypost.protocol.realm_trust import CLOCK_SKEW, RecordKey
from keypost_services.ca.trust.realm import Realm, active_key
from support.ca import served_realm
from support.chains import handed_over
from support.clock import START, ManualClock
from support.realm import SimulatedRealm, seeded_signer


def key(seed: int, from_time: int, until_time: int) -> RecordKey:
    return RecordKey(seeded_signer(seed).public_key_der, from_time, until_time)


OLD, NEW = key(1, START - DAY, START + DAY), key(2, START, START + 2 * DAY)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (START - 1, OLD),
        (START, OLD),
        (START + CLOCK_SKEW - 1, OLD),
        (START + CLOCK_SKEW, NEW),
        (START + DAY, NEW),
        (START + 2 * DAY - 1, NEW),
    ],
)
def test_the_key_that_came_into_force_last_signs(now: int, expected: RecordKey) -> None:
    assert active_key([OLD, NEW], now) == active_key([NEW, OLD], now) == expected


def test_a_key_alone_signs_from_its_first_moment_to_its_last() -> None:
    assert active_key([NEW], START) == active_key([NEW], START + 2 * DAY - 1) == NEW
    for now in (START - 1, START + 2 * DAY):
        with pytest.raises(UnknownRecordKeyError):
            active_key([NEW], now)


def test_a_key_that_is_prepared_and_not_in_force_signs_nothing() -> None:
    clock = ManualClock()
    realm = SimulatedRealm(clock=clock)
    trust = realm.trust()
    clock.now = trust.record_keys[0].from_time - HOUR
    with pytest.raises(UnknownRecordKeyError, match="in force"):
        served_realm(trust, realm.record_signer).active(clock())


def test_only_a_later_statement_takes_the_place_of_the_one_that_is_served() -> None:
    clock = ManualClock()
    realm = SimulatedRealm(clock=clock)
    chain = handed_over(5)
    newest = chain.follow()
    served = served_realm(newest, realm.record_signer)
    served.replace(Realm(newest))
    for older in (realm.trust(),):
        with pytest.raises(TrustRegressedError, match="was served"):
            served.replace(Realm(older))
    assert served.trust == newest
