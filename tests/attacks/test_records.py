"""What a directory or a CA could say of a user's keys that is not so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import HOUR
from keypost.protocol.errors import IdentityChangedError

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.simulation import Services


@pytest.mark.usefixtures("bob")
async def test_a_key_of_the_attackers_in_place_of_the_users(alice: Any, services: Services, clock: ManualClock) -> None:
    await alice.client.send("bob", "before")
    mallory = services.realm.reset("bob")
    clock.advance(HOUR)
    with pytest.raises(IdentityChangedError):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]
