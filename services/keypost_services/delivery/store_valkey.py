"""Mailboxes in Redis or Valkey: a stream each, changed by server functions alone (``mailboxes.lua``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from keypost.clock import DAY
from keypost.tracing import is_context
from keypost_services.delivery.functions import Call
from keypost_services.delivery.mailboxes import (
    DELIVERY_ID,
    Acceptance,
    Backlog,
    Claim,
    Durability,
    Load,
    MailboxesUnavailableError,
    MailboxLimits,
    MessageName,
    Outcome,
    Page,
    Posting,
    ReceiverDisplacedError,
    Waiting,
    WakeUps,
    position,
)
from keypost_services.runtime.gathering import Gathering

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from keypost.protocol.identifiers import Address
    from keypost_services.delivery.functions import FunctionLibrary
    from keypost_services.delivery.servers import Servers
    from keypost_services.delivery.wake_ups import WakeUpSubscriptions

    Result = Mapping[Address, Acceptance] | MailboxesUnavailableError

TIME_DIGITS = 15
CLAIM_LIFETIME = DAY
DIGEST_BYTES = 32
MOST_IN_A_CALL = 512


@dataclass(frozen=True)
class Observers:
    """Who is told of what calls show.

    Attributes:
        depth: Told how many envelopes wait in a mailbox, after each call that may have put some in.
        expired: Told how many envelopes a call has found too old to wait on, if it has found some.
        failure: Told of each command that was not carried out.
    """

    depth: Callable[[int], None] = lambda _: None
    expired: Callable[[int], None] = lambda _: None
    failure: Callable[[], None] = lambda: None


class ValkeyMailboxes:
    """The adapter of :class:`~keypost_services.delivery.mailboxes.Mailboxes` for Redis and Valkey.

    Args:
        servers: The servers.
        subscriptions: Where the wake-ups come from.
        functions: The functions of the servers.
        limits: How much a mailbox holds.
        durability: What must hold before an append is answered.
        replica_timeout: How long an append waits for the replica's disk, milliseconds (``REPLICATED`` alone).
        observers: Who is told of what calls show.
    """

    def __init__(
        self,
        servers: Servers,
        subscriptions: WakeUpSubscriptions,
        functions: FunctionLibrary,
        limits: MailboxLimits,
        durability: Durability,
        *,
        replica_timeout: int = 2_000,
        observers: Observers | None = None,
    ) -> None:
        self._servers = servers
        self._subscriptions = subscriptions
        self._functions = functions
        self._limits = limits
        self._observers = observers or Observers()
        self._replica_timeout = replica_timeout if durability is Durability.REPLICATED else None
        self._gatherings: dict[str, Gathering[Posting, Result]] = {}

    async def append_all(self, postings: Sequence[Posting]) -> Sequence[Result]:
        """Append many messages in one round trip; returns what became of each."""
        if len(postings) > MOST_IN_A_CALL:
            raise ValueError(f"at most {MOST_IN_A_CALL} messages at once")
        if len(postings) == 1 and (gathering := self._gathering_of(postings[0])) is not None:
            return [await gathering.ask(postings[0])]
        return await self._judge(
            "append", postings, lambda envelope: envelope, self._replica_timeout, self._observers.depth
        )

    def _gathering_of(self, posting: Posting) -> Gathering[Posting, Result] | None:
        """Return where a message for one mailbox waits for others that go to the same server; None: it goes alone."""
        server = (
            self._servers.server_of(_waiting(next(iter(posting.envelopes)))) if len(posting.envelopes) == 1 else None
        )
        return None if server is None else self._gatherings.setdefault(server.name, Gathering(self._append_each))

    async def _append_each(self, postings: Sequence[Posting]) -> Sequence[Result]:
        """Append messages that have nothing to do with each other: in one round trip, each by calls of its own."""
        owners = [(posting, address) for posting in postings for address in posting.envelopes]
        calls = [self._judging("append", address, [posting], lambda envelope: envelope) for posting, address in owners]
        replies = iter(await self._servers.run(calls, self._replica_timeout) if calls else ())
        return [self._taken([posting], posting.envelopes, replies, self._observers.depth)[0] for posting in postings]

    async def foresee_all(self, postings: Sequence[Posting]) -> Sequence[Result]:
        """Return what ``append_all`` would say now."""
        return await self._judge("foresee", postings, len, None, lambda _: None)

    async def _judge(
        self,
        function: str,
        postings: Sequence[Posting],
        content: Callable[[bytes], bytes | int],
        replica_timeout: int | None,
        on_depth: Callable[[int], None],
    ) -> Sequence[Result]:
        """Ask every mailbox about its messages, of all postings at once: in one call nothing can overtake."""
        by_mailbox: dict[Address, list[Posting]] = {}
        for posting in postings:
            for address in posting.envelopes:
                by_mailbox.setdefault(address, []).append(posting)
        calls = [self._judging(function, address, own, content) for address, own in by_mailbox.items()]
        replies = iter(await self._servers.run(calls, replica_timeout) if calls else ())
        return self._taken(postings, by_mailbox, replies, on_depth)

    def _taken(
        self,
        postings: Sequence[Posting],
        mailboxes: Iterable[Address],
        replies: Iterator[Any],
        on_depth: Callable[[int], None],
    ) -> Sequence[Result]:
        """Return what became of postings: the next reply is that of the first of their mailboxes, and so on."""
        answers: dict[Address, Iterator[Acceptance] | MailboxesUnavailableError] = {}
        for address, reply in zip(mailboxes, replies, strict=False):
            if isinstance(reply, MailboxesUnavailableError):
                self._observers.failure()
                answers[address] = reply
                continue
            depth, said, expired = reply
            on_depth(depth)
            self._forgot(expired)
            answers[address] = _acceptances(said)
        return [_result(posting, answers) for posting in postings]

    def _judging(
        self, function: str, address: Address, postings: Sequence[Posting], content: Callable[[bytes], bytes | int]
    ) -> Call:
        limits = self._limits
        keys = [*_contents(address), *(_seen(address, posting.name) for posting in postings)]
        args: list[str | bytes | int] = [
            *(limits.messages, limits.size, limits.sender_messages, limits.sender_size),
            channel_of(address),
        ]
        for posting in postings:
            args += (posting.digest, posting.accept_time, posting.mailbox_age, posting.name.sender.username)
            args += (content(posting.envelopes[address]), posting.trace_context)
        return self._functions.call(function, keys, *args)

    async def find(self, name: MessageName, addresses: Collection[Address], since: int) -> Mapping[Address, bytes]:
        """Return the digests under which a message was accepted at that time or later, by mailbox."""
        keys = [_seen(address, name) for address in addresses]
        replies = await self._run([Call(key, ("GET", key)) for key in keys])
        found = zip(addresses, replies, strict=True)
        return {
            address: seen[:DIGEST_BYTES]
            for address, seen in found
            if seen is not None and _accept_time(seen[DIGEST_BYTES:]) >= since
        }

    async def claim_number(self, address: Address) -> int:
        """Return a number for a claim of a mailbox, higher than all before."""
        number: int = await self._call("number", (_load(address),), CLAIM_LIFETIME)
        return number

    async def claim(self, claim: Claim) -> str:
        """Claim a mailbox, displacing whoever held it; returns the last delivery id there is."""
        keys = (_waiting(claim.address), _load(claim.address), _receiver(claim.address))
        args = (channel_of(claim.address), claim.receiver, CLAIM_LIFETIME, claim.number)
        verdict, *newest = await self._call("claim", keys, *args)
        if verdict == b"displaced":
            raise ReceiverDisplacedError
        return str(newest[0].decode())

    async def release(self, claim: Claim) -> None:
        """Give a claim up; nothing happens if it is another's by now."""
        await self._call("release", (_receiver(claim.address),), claim.receiver)

    async def read(self, claim: Claim, after: str, page: Page, oldest: int) -> Sequence[Waiting]:
        """Return the next envelopes after a delivery id, in order."""
        address = claim.address
        keys = (*_contents(address), _receiver(address))
        args = (claim.receiver, CLAIM_LIFETIME, after, page.messages, page.size, oldest)
        verdict, *found = await self._call("read", keys, *args)
        if verdict == b"displaced":
            raise ReceiverDisplacedError
        expired, *entries = found
        self._forgot(expired)
        return [
            Waiting(name.decode(), _accept_time(time), envelope, attempts, *map(_trace_context, traced))
            for name, time, envelope, attempts, *traced in entries
        ]

    def _forgot(self, expired: int) -> None:
        if expired:
            self._observers.expired(expired)

    async def acknowledge(self, address: Address, delivery_ids: Collection[str]) -> int:
        """Forget envelopes; returns how many there were."""
        known = sorted({one for one in delivery_ids if DELIVERY_ID.fullmatch(one)}, key=position)
        count = 0
        for start in range(0, len(known), MOST_IN_A_CALL):
            count += await self._call("acknowledge", _contents(address), *known[start : start + MOST_IN_A_CALL])
        return count

    async def empty(self, address: Address) -> int:
        """Forget everything that waits in a mailbox; returns how many envelopes that were."""
        count: int = await self._call("empty", _contents(address))
        return count

    async def waiting(self, address: Address) -> Load:
        """Return what a mailbox holds."""
        waiting, load = _waiting(address), _load(address)
        messages, size = await self._run([Call(waiting, ("XLEN", waiting)), Call(load, ("HGET", load, "bytes"))])
        return Load(messages, int(size or 0))

    async def backlogs(self, addresses: Collection[Address]) -> Mapping[Address, Backlog]:
        """Return what waits in each of these mailboxes."""
        replies = await self._run([self._functions.call("backlog", (_waiting(address),)) for address in addresses])
        return {
            address: Backlog(messages, _accept_time(oldest))
            for address, (messages, oldest) in zip(addresses, replies, strict=True)
        }

    def watch(self, address: Address) -> AbstractAsyncContextManager[WakeUps]:
        """Return a context in which wake-ups of a mailbox arrive."""
        return self._subscriptions.subscribed(channel_of(address))

    async def prepare(self) -> None:
        """Put the server functions in place; raises :class:`MailboxesUnavailableError`."""
        try:
            for server in self._servers.serving:
                await server.load_functions()
        except RedisError as error:
            raise MailboxesUnavailableError(f"the mailbox server: {type(error).__name__}: {error}") from error

    async def _call(self, name: str, keys: Sequence[str], *args: str | int) -> Any:
        (reply,) = await self._run([self._functions.call(name, keys, *args)])
        return reply

    async def _run(self, calls: Sequence[Call]) -> Sequence[Any]:
        replies = await self._servers.run(calls) if calls else []
        for reply in replies:
            if isinstance(reply, MailboxesUnavailableError):
                self._observers.failure()
                raise reply
        return replies


def channel_of(address: Address) -> str:
    """Return the name of the channel on which wake-ups of a mailbox are published."""
    return _key(address, "wake-up")


def _key(address: Address, part: str) -> str:
    # The braces are the hash tag: everything of one mailbox shares a slot.
    return f"keypost:{{{address}}}:{part}"


def _waiting(address: Address) -> str:
    return _key(address, "waiting")


def _load(address: Address) -> str:
    return _key(address, "load")


def _contents(address: Address) -> tuple[str, ...]:
    """Return the keys of what waits, and of what is known of it."""
    return (_waiting(address), _load(address), _key(address, "shares"), _key(address, "attempts"))


def _receiver(address: Address) -> str:
    return _key(address, "receiver")


def _seen(address: Address, name: MessageName) -> str:
    return _key(address, f"seen:{name.sender}:{name.message_id.hex()}")


def _accept_time(value: bytes) -> int:
    """Return the accept time of an entry; 0, so that clients find it too old, if somebody else wrote what is none."""
    return int(value) if value.isdigit() and len(value) <= TIME_DIGITS else 0


def _trace_context(value: bytes) -> str:
    """Return the trace context of an entry; nothing if somebody else wrote what is none."""
    context = value.decode("ascii", "replace")
    return context if is_context(context) else ""


def _acceptances(reply: Any) -> Iterator[Acceptance]:
    """Return what a mailbox said to each of its messages, to be taken one after the other."""
    return (Acceptance(Outcome(outcome.decode()), int(time), any(heard)) for outcome, time, *heard in reply)


def _result(posting: Posting, answers: Mapping[Address, Iterator[Acceptance] | MailboxesUnavailableError]) -> Result:
    acceptances: dict[Address, Acceptance] = {}
    failure: MailboxesUnavailableError | None = None
    for address in posting.envelopes:
        answer = answers[address]
        if isinstance(answer, MailboxesUnavailableError):
            failure = answer
        else:
            acceptances[address] = next(answer)
    return failure or acceptances
