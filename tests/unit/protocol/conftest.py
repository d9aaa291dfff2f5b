import pytest

from support.clock import ManualClock
from support.realm import SimulatedRealm


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def realm(clock: ManualClock) -> SimulatedRealm:
    return SimulatedRealm(clock)
