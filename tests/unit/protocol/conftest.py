import pytest
from hypothesis import settings

from support.clock import ManualClock
from support.realm import SimulatedRealm

settings.register_profile("deep", max_examples=2_000, deadline=None)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def realm(clock: ManualClock) -> SimulatedRealm:
    return SimulatedRealm(clock)
