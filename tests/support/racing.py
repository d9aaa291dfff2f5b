"""People in races: clients over real services, copied profiles, answers that get lost."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from keypost.client.identity import PairSigner
from keypost.clock import system_clock
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import RefusedError, UnreachableError
from keypost.transport.delivery_client import DeliveryClient
from keypost.transport.directory_client import DirectoryClient
from keypost.transport.remote_service import TOKEN_REFUSED
from keypost.transport.retries import Retries
from keypost.transport.tokens import TokenSource
from support.people import Person

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

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


async def check_cut_off(client: Client, key: DeviceKeyPair) -> None:
    """Call directory and delivery in the name of a key until both refuse it; they do once its key event has come."""
    tokens = TokenSource(client.realm, lambda: PairSigner(key), system_clock)
    _, directory, delivery = client._parts.channels
    looking, sending = DirectoryClient(directory, ONCE, tokens), DeliveryClient(delivery, ONCE, tokens)
    await refused_at_last(lambda: looking.get_key_info(key.address.username))
    await refused_at_last(lambda: sending.send(envelope_pb2.Envelope()))


async def refused_at_last(call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Make a call until its token is refused."""
    for _ in count():
        if await reason(call()) == TOKEN_REFUSED:
            return


async def served_at_last(call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Make a call until its token is not refused any more."""
    for _ in count():
        if await reason(call()) != TOKEN_REFUSED:
            return


async def reason(call: Coroutine[Any, Any, Any]) -> str:
    """Return why a call is refused; empty if it is served."""
    try:
        await call
    except RefusedError as refused:
        return refused.reason
    return ""
