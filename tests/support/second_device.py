"""A second device of a user on its way: it has answered an invitation and is not approved yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from support.people import Person


@dataclass
class Second:
    """A second device of Alice on its way."""

    person: Person
    invitation: str
    request: str

    @property
    def client(self) -> Any:
        return self.person.client


@pytest.fixture
async def second(alice: Any, open_client: Any) -> Second:
    """A profile that has answered Alice's invitation."""
    person = await open_client("second")
    invitation = (await alice.client.invite()).text
    request = await person.client.join(invitation)
    return Second(person, invitation, request.text)


async def approved(alice: Any, second: Second) -> Any:
    """Have Alice approve it, and return its address."""
    await alice.client.approve(second.request)
    return await second.client.joined()
