"""Messages that whoever takes them in fails at."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from keypost.client.handing_out import ATTEMPTS
from support.attacks import check_told, check_untold

if TYPE_CHECKING:
    from support.simulation import Services


class ApplicationFailedError(Exception):
    """The application cannot handle a message."""


async def handle(person: Any) -> list[str]:
    """Handle what comes, as an application that one message is too much for."""
    handled = []
    async with aclosing(person.client.receive(follow=False)) as messages:
        async for message in messages:
            if message.text == "poison":
                raise ApplicationFailedError
            handled.append(message.text)
    return handled


async def test_a_message_that_the_application_fails_at(alice: Any, bob: Any) -> None:
    for text in ("poison", "after"):
        await alice.client.send("bob", text)
    for _ in range(ATTEMPTS):
        with pytest.raises(ApplicationFailedError):
            await handle(bob)
    try:
        handled = await handle(bob)
    except ApplicationFailedError:
        handled = []
    assert handled == ["after"]
    check_told(bob.reasons(), "HANDLED_TOO_OFTEN")


async def test_a_delivery_that_says_that_everything_came_too_often(alice: Any, bob: Any, services: Services) -> None:
    await alice.client.send("bob", "hello")
    services.mailboxes[bob.client.address][0].attempts = 1_000
    assert [message.text for message in await bob.inbox()] == ["hello"]
    check_untold(bob.reasons())
