"""People in races: clients over real services, copied profiles, answers that get lost."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keypost.client.identity import PairSigner
from keypost.clock import system_clock
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import UnreachableError
from keypost.transport.delivery_client import DeliveryClient
from keypost.transport.directory_client import DirectoryClient
from keypost.transport.retries import Retries
from keypost.transport.tokens import TokenSource
from support.people import Person

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from keypost.client import Client
    from keypost.protocol.key_requests import DeviceKeyPair

ALARMS = frozenset({"error", "set_aside"})
REQUEST, ANSWER = "request", "answer"
ONCE = Retries(attempts=1)


@dataclass
class NamedPerson(Person):
    """A person who knows their own name."""

    name: str = ""


def alarms_of(person: Person) -> list[str]:
    """Return what the client told that would worry a person."""
    return [event.reason for event in person.events if event.kind in ALARMS]


@contextmanager
def lost(target: object, method: str, what: str) -> Iterator[None]:
    """Lose each request, or each answer, of a method while the block runs."""
    call = getattr(target, method)

    async def lose(*args: Any, **kwargs: Any) -> Any:
        if what == ANSWER:
            await call(*args, **kwargs)
        raise UnreachableError(f"the {what} was lost", service="ca")

    setattr(target, method, lose)
    try:
        yield
    finally:
        setattr(target, method, call)


def calls_with(client: Client, key: DeviceKeyPair) -> tuple[Coroutine[Any, Any, Any], ...]:
    """Return calls to directory and delivery in the name of a key, not awaited yet."""
    parts = client._parts
    tokens = TokenSource(client.realm, lambda: PairSigner(key), system_clock)
    _, directory, delivery = parts.channels
    return (
        DirectoryClient(directory, ONCE, tokens).get_key_info(key.address.username),
        DeliveryClient(delivery, ONCE, tokens).send(envelope_pb2.Envelope()),
    )
