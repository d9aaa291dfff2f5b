"""Receiving: each envelope settled before it is acknowledged (steps 8 to 14)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from keypost.client.context import as_keypost_error
from keypost.client.look_ups import LookUps
from keypost.client.opening import Fate, Opening, Outcome, settle
from keypost.client.records import RecordUnusableError
from keypost.client.suspects import ATTEMPTS, TOGETHER, counted, end_count, give_up, is_suspect, take_back
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import KeypostError, RefusedError, UnreachableError
from keypost.protocol.encoding import parse
from keypost.protocol.envelope import check_addressed, read_envelope
from keypost.protocol.errors import NotForThisDeviceError, NotYetError
from keypost.tracing import NO_SPAN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.client.look_ups import Answer
    from keypost.client.records import Records
    from keypost.client.trusting import Trust
    from keypost.keystore.port import KeyStore
    from keypost.protocol.envelope import SealedEnvelope
    from keypost.protocol.identifiers import Address
    from keypost.protocol.realm_trust import RealmTrust


RECEIVE = "keypost receive"
Earlier = Callable[[Collection[str]], Awaitable[Collection["Address"]]]
"""Settles what waits of these users, and returns the devices of which something holds up what comes later."""


class EarlierWaitsError(NotYetError):
    """A message that was sent before this one cannot be opened yet."""

    reason = "EARLIER_WAITS"


@dataclass(frozen=True)
class Arrival:
    """An envelope as it came, or as it waited.

    Attributes:
        raw: The serialised envelope.
        accept_time: When delivery accepted it.
        receive_time: When this device received it.
        sequence: The sequence with which it first came to be kept; 0 if it comes just now.
        attempts: How often delivery has handed it out, this time counted; 0 if nobody counts.
        trace_context: The trace in which it is recorded; empty: in none.
    """

    raw: bytes
    accept_time: int
    receive_time: int
    sequence: int = 0
    attempts: int = 0
    trace_context: str = ""


class Receiving:
    """Turns what arrives into what the inbox holds.

    Args:
        context: What all parts share.
        identity: The own device.
        trust: The realm's trust.
        records: The users' records.
    """

    def __init__(self, context: Context, identity: Identity, trust: Trust, records: Records) -> None:
        self._context = context
        self._identity = identity
        self._trust = trust
        self._records = records
        self._look_ups = LookUps(records)

    @property
    def address(self) -> Address:
        """The own address."""
        return self._identity.address

    async def take(self, arrivals: Sequence[Arrival], earlier: Earlier) -> list[Outcome]:
        """Settle envelopes in their order, and tell what happened to each.

        All in one transaction, but for those that came too often: each of these alone, since this device may be
        failing at it, and must not fail at the others.

        Args:
            arrivals: Envelopes.
            earlier: Settles those of some users that came before and wait, and returns the devices of which some still
                do, for want of an answer: what comes of these waits behind them.

        Raises:
            DeviceKeyStolenError: another copy of this device has renewed: what it may open stays in the mailbox.
            ProtocolError, RefusedError, UnreachableError: it may have, and nobody can be asked now.
        """
        if not any(arrival.trace_context for arrival in arrivals):
            return await self._take(arrivals, earlier)
        spans = [self._context.traces.begin_if(arrival.trace_context, RECEIVE, "CONSUMER") for arrival in arrivals]
        failures = ["CUT_OFF"] * len(spans)
        try:
            # What is asked once for several is told in the trace of the first.
            with next((span for span in spans if span.is_recorded), NO_SPAN).current():
                outcomes = await self._take(arrivals, earlier)
            failures = ["" if outcome.error is None else outcome.error.reason for outcome in outcomes]
        finally:
            for span, failure in zip(spans, failures, strict=True):
                span.end(failure)
        return outcomes

    async def _take(self, arrivals: Sequence[Arrival], earlier: Earlier) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for suspect, group in groupby(arrivals, key=lambda arrival: is_suspect(arrival.attempts)):
            if suspect:
                outcomes += [await self._take_suspect(arrival, earlier) for arrival in group]
            else:
                outcomes += await self._take_together(list(group), earlier)
        return outcomes

    async def _take_together(self, arrivals: Sequence[Arrival], earlier: Earlier) -> list[Outcome]:
        openings = await self.prepare(arrivals)
        await self._check_not_replaced(openings)
        waiting = await earlier(_openable(openings))
        outcomes = await self._context.store.transact(_settle_all, openings, waiting)
        for outcome in outcomes:
            self.tell(outcome)
        return outcomes

    async def _take_suspect(self, arrival: Arrival, earlier: Earlier) -> Outcome:
        trust, now = await self._trust.current(), self._context.clock()
        async with counted(self._context, arrival.raw) as begun:
            if begun > ATTEMPTS - TOGETHER:
                outcome = await self._context.store.transact(give_up, self._unread(arrival, trust, now))
                self.tell(outcome)
                return outcome
            opening = self._opening(arrival, trust, now)
            await self._context.store.run(take_back, arrival.raw)
        # Whoever is ended while a service takes its time did not fail at the envelope.
        openings = await self._look_up([opening])
        await self._check_not_replaced(openings)
        waiting = await earlier(_openable(openings))
        async with counted(self._context, arrival.raw):
            (outcome,) = await self._context.store.transact(_settle_suspect, openings, waiting)
        self.tell(outcome)
        return outcome

    async def prepare(
        self, arrivals: Sequence[Arrival], refresh: Collection[str] = (), *, now: int | None = None
    ) -> list[Opening]:
        """Check what can be checked before anything is opened, and look the records up.

        Args:
            arrivals: Envelopes.
            refresh: Users whose records are asked for whatever is held.
            now: The time by which all of them are judged, Unix milliseconds; the present one if not given. Each by a
                later one, the next would be opened where a clock that is behind reaches it between the two.
        """
        trust = await self._trust.current()
        now = self._context.clock() if now is None else now
        return await self._look_up([self._opening(arrival, trust, now) for arrival in arrivals], refresh)

    async def _look_up(self, openings: Sequence[Opening], refresh: Collection[str] = ()) -> list[Opening]:
        readable = [opening.sealed for opening in openings if opening.sealed is not None]
        me = self._identity.address.username
        answers = await self._look_ups.all(_wanted(readable), me, refresh)
        return [_with_records(opening, answers) for opening in openings]

    async def _check_not_replaced(self, openings: Iterable[Opening]) -> None:
        """Look at the own record before envelopes are settled that are sealed to a key which this device does not hold.

        Where another copy of this device has renewed they are for that one: whatever is raised here leaves them in the
        mailbox. Where the record at their revision shows no such copy, or the CA has no such revision, they are for
        nobody. So one question settles them all, however many they are, and none is asked whose answer is held.

        Raises:
            DeviceKeyStolenError: another copy has renewed.
            ProtocolError, RefusedError, UnreachableError: the own record cannot be had now.
        """
        failures = (opening.failure for opening in openings)
        errors = (failure for failure in failures if isinstance(failure, NotForThisDeviceError))
        revisions = [error.unheld_at for error in errors if error.unheld_at is not None]
        if revisions:
            await self._records.get_confirmed(self.address.username, max(revisions))

    def tell(self, outcome: Outcome) -> None:
        """Show the steps, and tell what the application should know."""
        for step in outcome.steps:
            self._context.show(step)
        for reason, sentence in outcome.warnings:
            self._context.tell("warning", reason, sentence, sender=outcome.sender)
        if outcome.error is not None and outcome.fate is Fate.WAITS:
            sentence = f"a message waits: {outcome.error}"
            self._context.tell("waiting", outcome.error.reason, sentence, sender=outcome.sender)
        elif outcome.error is not None:
            sentence = f"a message was set aside: {outcome.error}"
            self._context.tell("set_aside", outcome.error.reason, sentence, sender=outcome.sender)

    def _opening(self, arrival: Arrival, trust: RealmTrust, now: int) -> Opening:
        opening = self._unread(arrival, trust, now)
        try:
            return replace(opening, sealed=self._read(arrival.raw))
        except Exception as error:  # noqa: BLE001  # nothing in a message may block the mailbox
            return replace(opening, failure=as_keypost_error(error))

    def _unread(self, arrival: Arrival, trust: RealmTrust, now: int) -> Opening:
        return Opening(
            raw=arrival.raw,
            accept_time=arrival.accept_time,
            receive_time=arrival.receive_time,
            sequence=arrival.sequence,
            me=self._identity.address,
            ring=self._identity.ring,
            trust=trust,
            minimum_suite=self._context.minimum_suite,
            now=now,
            clock=self._context.clock,
        )

    def _read(self, raw: bytes) -> SealedEnvelope:
        sealed = read_envelope(parse(envelope_pb2.Envelope, raw, "Envelope"))
        mine = {pair.fingerprint for pair in self._identity.ring.all()}
        check_addressed(sealed, self._context.realm, self._identity.address, mine)
        return sealed


def relied_upon(sealed: SealedEnvelope) -> tuple[tuple[str, int], tuple[str, int]]:
    """Return the users on whose records an envelope relies, each with the revision."""
    header = sealed.header
    return (header.recipient_username, header.recipient_revision), (header.sender.username, header.sender_revision)


def _wanted(envelopes: Iterable[SealedEnvelope]) -> dict[str, int]:
    """Return by username the highest revision that one of the envelopes relies upon."""
    wanted: dict[str, int] = {}
    for sealed in envelopes:
        for username, revision in relied_upon(sealed):
            wanted[username] = max(revision, wanted.get(username, 0))
    return wanted


def _with_records(opening: Opening, answers: Mapping[str, Answer]) -> Opening:
    if opening.sealed is None:
        return opening
    header = opening.sealed.header
    own, sender = answers[header.recipient_username], answers[header.sender.username]
    failure = None
    try:
        own.check(header.recipient_revision)
        sender.check(header.sender_revision)
    except KeypostError as error:
        failure = error
    return replace(opening, own_record=own.record, sender_record=sender.record, failure=failure)


def holds_up(outcome: Outcome) -> bool:
    """Return whether what the same device sent later has to wait as well, or would be handed out before this one.

    So it is while nobody can be asked. Where the answer is that there is no such revision, the message may never open:
    whoever made it up must not keep others from being opened.
    """
    unanswered = isinstance(outcome.error, UnreachableError | RefusedError | RecordUnusableError)
    return outcome.fate is Fate.WAITS and unanswered


def _openable(openings: Iterable[Opening]) -> set[str]:
    """Return the users by whose records something can be opened now."""
    return {opening.sealed.header.sender.username for opening in openings if opening.sealed and not opening.failure}


def _settle_all(store: KeyStore, openings: Sequence[Opening], waiting: Collection[Address]) -> list[Outcome]:
    """Settle envelopes in their order; what comes of a device of which an earlier one holds it up waits too."""
    waiting = set(waiting)
    outcomes = []
    for opening in openings:
        sender = None if opening.sealed is None else opening.sealed.header.sender
        outcome = settle(store, _behind(opening) if sender in waiting else opening)
        if sender is not None and holds_up(outcome):
            waiting.add(sender)
        outcomes.append(outcome)
    return outcomes


def _behind(opening: Opening) -> Opening:
    sentence = "an earlier message of this device waits: messages of one device are handed out in the order of sending"
    return opening if opening.failure is not None else replace(opening, failure=EarlierWaitsError(sentence))


def _settle_suspect(store: KeyStore, openings: Sequence[Opening], waiting: Collection[Address]) -> list[Outcome]:
    for opening in openings:
        end_count(store, opening)
    return _settle_all(store, openings, waiting)
