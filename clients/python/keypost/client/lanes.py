"""One conversation on its way out: what is sealed, handed over, refused, repaired and handed over again, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.client.context import unforeseen
from keypost.client.early_keeper import EARLY, EarlyKeeper
from keypost.client.outcomes import Drained, Outcomes
from keypost.client.outgoing import Item, Order, fill
from keypost.client.pipeline import Broken, Outdated, Parcel
from keypost.client.send_refusals import (
    NO_ROOM,
    SENDER_IS_NOT_CALLER,
    SESSION_STALE,
    USER_NOT_FOUND,
    is_final,
    is_stored_already,
)
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.errors import KeypostError, RefusedError, UnreachableError
from keypost.keystore.errors import KeyStoreUnavailableError
from keypost.protocol.errors import ProtocolError
from keypost.tracing import rpc_facts
from keypost.transport.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keypost.client.context import Context
    from keypost.client.outgoing import Filled, Tidying
    from keypost.client.pipeline import Pipeline
    from keypost.client.sealing import Sealing
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import KeyRecord
    from keypost.transport.retries import Retries
    from keypost.transport.send_stream import Answer

MOST_TOGETHER = 64
MOST_BYTES_TOGETHER = 256 * 1024
"""How much is sealed in one transaction."""
MOST_UNANSWERED = 256
SEND_STREAM = "keypost.delivery.v1.DeliveryService/SendStream"
SEND_STREAM_FACTS = rpc_facts(SEND_STREAM)
ROUNDS = 6
"""How often messages are sealed anew because keys changed on their way, before one of them is stored."""


@dataclass(frozen=True)
class Means:
    """What all lanes share.

    Attributes:
        context: What all parts share.
        pipeline: Where envelopes are handed over.
        tidying: Takes out of the outbox what delivery has.
        retries: How long to wait.
        address: Returns the own address.
        signer: Returns the fingerprint of the own key.
        sealing: Looks both users up, and returns what sealing a message to the recipient needs.
        learn: Verifies the records that came with a refusal; returns whether one is newer than what was sealed for.
        keep_copies: Called when copies for the own other devices are in the outbox.
        told: The ids of the messages of which the application was told that they wait.
    """

    context: Context
    pipeline: Pipeline
    tidying: Tidying
    retries: Retries
    address: Callable[[], Address]
    signer: Callable[[], bytes]
    sealing: Callable[[str], Awaitable[Sealing | None]]
    learn: Callable[[pb.StaleKeys, KeyRecord, KeyRecord], Awaitable[bool]]
    keep_copies: Callable[[], None]
    told: set[bytes]


class Lane:
    """Sends the messages of one conversation, in the order of their counters.

    Several are under way at once. What is not stored stops the lane: once every answer is in, it repairs what can be
    repaired, and hands over again all that is not stored, the first one first. Nothing overtakes.

    Args:
        recipient: The other user; the own one for copies to the own other devices.
        means: What all lanes share.
        on_end: Called when nothing is left to do.
    """

    def __init__(self, recipient: str, means: Means, on_end: Callable[[Lane], None]) -> None:
        self.recipient = recipient
        self._means = means
        self._on_end = on_end
        self._early = EarlyKeeper(
            recipient, means.context, means.address, self._copies_wanted, on_kept=self._is_kept, on_change=self.kick
        )
        self._fresh, self._turn = self._early.fresh, self._early.turn
        self._outcomes = Outcomes(recipient, means.context, means.tidying, means.address, means.told)
        self._ready: deque[Item] = deque()
        """Begun, to be handed over (again)."""
        self._going: list[Item] = []
        """Being sealed again, or sealed and waiting for room."""
        self._handed: deque[Item] = deque()
        """Handed over, and not stored as far as is known."""
        self._answers: dict[Item, Answer | Broken | Outdated] = {}
        """Answers that are none of being stored, by item."""
        self._unanswered = 0
        self._read_after: int | None = 0
        self._last = 0
        """The highest counter that was begun, or read from the outbox."""
        self._sealing: Sealing | None = None
        self._resumes = False
        self._next_is_new_session = False
        self._rounds = 0
        self._failures = 0
        self._trouble: KeypostError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None
        self._drained = Drained()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def put(self, item: Item) -> None:
        """Send something after everything that was put before."""
        item.put_time = asyncio.get_running_loop().time()
        self._fresh.append(item)
        if self._trouble is not None:
            self._set_timer()
        self._early.keep_later()
        self.kick()

    def read_outbox(self) -> None:
        """Send what is in the outbox too."""
        if self._read_after is None:
            self._read_after = self._last
        self.kick()

    def kick(self) -> None:
        """Go on, if the lane has stopped."""
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def withdraw(self, item: Item) -> None:
        """Forget who waited for an item; it is not sent if it is not begun yet."""
        item.listener = None
        if item in self._fresh:
            self._fresh.remove(item)

    async def close(self) -> None:
        """End the lane; what is kept in the outbox goes out another time."""
        if self._timer is not None:
            self._timer.cancel()
        if self._telling is not None:
            self._telling.cancel()
        # The keeper first: it takes the lane up again when it has kept something.
        await self._early.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._give_up(KeyStoreUnavailableError("this client is closed: open another"))
        self._sealing = None

    async def drained(self, up_to: int) -> None:
        """Wait until nothing up to a counter is left to do.

        Raises:
            KeypostError: what keeps the lane from going on, for as long as anybody waits for an outcome.
        """
        if (drained := self._drained.wait(up_to)) is not None:
            self.kick()
            await drained

    async def ended(self) -> None:
        """Wait until nothing is left to do, or until the lane has given up for now."""
        while self._task is not None and not self._task.done():
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            # Nothing that a lane does belongs to whoever happened to begin it.
            with self._means.context.traces.following(""):
                while await self._step():
                    pass
        except KeypostError as error:
            await self._answers_are_in()
            self._give_up(error)
        except Exception as error:
            await self._answers_are_in()
            self._give_up(unforeseen(error))
            raise
        if not self._fresh and not self._turn.locked():
            self._calm()
            self._drained.all_gone()
            # It has the private key: whoever still holds the lane must not hold that.
            self._sealing = None
            self._on_end(self)

    async def _step(self) -> bool:
        """Do the next thing; return whether there may be more."""
        self._changed.clear()
        if self._answers:
            await self._answers_are_in()
            await self._repair()
            return True
        if self._unanswered < MOST_UNANSWERED and (self._ready or self._fresh or self._read_after is not None):
            await self._hand_over_more()
            return True
        if self._unanswered:
            await self._changed.wait()
            return True
        return False

    async def _answers_are_in(self) -> None:
        while self._unanswered:
            self._changed.clear()
            await self._changed.wait()

    async def _hand_over_more(self) -> None:
        # Whatever it takes until they may go: who waits for these is told meanwhile.
        group = self._going = self._take_ready()
        try:
            if not group or any(item.sealed is None for item in group):
                group = self._going = await self._seal(group)
            if not group:
                return
            size = sum(item.sealed_now.size for item in group)
            await self._until_they_may_go(group, size)
        finally:
            self._going = []
        if self._answers:
            self._means.pipeline.room.give(len(group), size)
            self._ready.extendleft(reversed(group))
            return
        self._handed.extend(group)
        self._unanswered += len(group)
        self._means.pipeline.submit([self._parcel(item, number) for number, item in enumerate(group)])
        self._resumes = False

    async def _until_they_may_go(self, group: list[Item], size: int) -> None:
        revisions = {item.revisions for item in self._handed} - {group[0].revisions}
        try:
            # Delivery holds what follows a refusal at the same revisions: those of others would overtake.
            while revisions and self._unanswered and not self._answers:
                self._changed.clear()
                await self._changed.wait()
            await self._means.pipeline.room.take(len(group), size)
        except BaseException:
            # Who waits for them is told by whoever ends the lane.
            self._ready.extendleft(reversed(group))
            raise

    def _parcel(self, item: Item, number: int) -> Parcel:
        sealed = item.sealed_now
        context = item.begun.trace_context
        span = self._means.context.traces.begin_if(context, SEND_STREAM, "CLIENT", SEND_STREAM_FACTS)

        def settle(answer: Answer | Broken | Outdated) -> None:
            span.end(_failure(answer))
            self._answered(item, answer)

        return Parcel(
            recipient=self.recipient,
            envelope=sealed.envelope,
            size=sealed.size,
            signer=sealed.signer,
            settle=settle,
            resume=self._resumes and not number,
            trace_context=span.passed_on,
        )

    def _take_ready(self) -> list[Item]:
        """Take what is begun and goes out together: all of it sealed, or none."""
        group: list[Item] = []
        size = 0
        while self._ready and len(group) < MOST_TOGETHER:
            item = self._ready[0]
            if item.listener is None and not item.keep:
                # Whoever sent it has gone, and it is nowhere kept.
                self._ready.popleft()
                continue
            size += item.size
            if group and (size > MOST_BYTES_TOGETHER or (item.sealed is None) != (group[0].sealed is None)):
                break
            if group and item.sealed is not None and item.revisions != group[0].revisions:
                break
            group.append(self._ready.popleft())
        return group

    def _take_fresh(self) -> list[Item]:
        group: list[Item] = []
        size = 0
        while self._fresh and len(group) < MOST_TOGETHER:
            size += self._fresh[0].size
            if group and size > MOST_BYTES_TOGETHER:
                break
            group.append(self._fresh.popleft())
        return group

    async def _seal(self, again: list[Item]) -> list[Item]:
        """Seal what is begun, or begin and seal what comes next; return what can be handed over."""
        try:
            # What is asked once for several is told in the trace of the first.
            first = next(iter(again or self._fresh or self._early.kept.values()), None)
            with self._means.context.traces.following("" if first is None else first.trace_context):
                sealing = await self._look_up()
            if sealing is None:
                return []
            await self._turn.acquire()
        except BaseException:
            self._ready.extendleft(reversed(again))
            raise
        try:
            return await self._fill(sealing, again)
        finally:
            self._turn.release()

    async def _fill(self, sealing: Sealing, again: list[Item]) -> list[Item]:
        fresh = [] if again else self._take_fresh()
        order = Order(
            sealing=sealing,
            again=again,
            after=None if again else self._read_after,
            fresh=fresh,
            most=MOST_TOGETHER,
            most_bytes=MOST_BYTES_TOGETHER,
            copies_to_self=_has_other_devices(sealing),
            kept=self._early.kept,
        )
        if self._next_is_new_session and again:
            again[0].new_session = True
        self._means.tidying.begin()
        try:
            filled = await self._means.context.store.begin_together(fill, order)
        except BaseException:
            self._ready.extendleft(reversed(again))
            self._fresh.extendleft(reversed(fresh))
            raise
        if filled.failure is not None:
            self._ready.extendleft(reversed(again))
            self._take_over(filled, sealing)
            raise filled.failure
        self._next_is_new_session = False
        if not again:
            self._read_after = filled.loaded_up_to
            self._fresh.extendleft(reversed(fresh if filled.loaded_up_to is not None else []))
        return self._take_over(filled, sealing)

    async def _look_up(self) -> Sealing | None:
        while True:
            try:
                self._sealing = await self._means.sealing(self.recipient)
            except ProtocolError as error:
                # Nobody knows whom it would go to: who sends it is told, and it does not go out behind his back later.
                self._refuse_kept(error)
                raise
            except (UnreachableError, RefusedError) as error:
                if isinstance(error, RefusedError) and not error.retriable:
                    if error.reason == USER_NOT_FOUND:
                        self._refuse_kept(error)
                    raise
                while await self._early.keep(age=0.0):
                    pass
                await self._wait(error)
                if not await self._has_anything():
                    self._read_after = None
                    return None
            else:
                if self._sealing is None:
                    # Nobody is there to send to any more: copies for devices that are gone.
                    self._read_after = None
                return self._sealing

    def _copies_wanted(self) -> bool:
        """Whether what is begun is copied to the own other devices, as far as is known.

        Copies for devices that turn out not to be there are dropped when they are to go out.
        """
        return self._sealing is None or _has_other_devices(self._sealing)

    def _is_kept(self, filled: Filled) -> None:
        """Have what was kept early read from the outbox in its turn; whoever sent what was refused is told."""
        for item, error in filled.refused:
            self._outcomes.fail(item, error)
        if filled.unsealed and self._read_after is None:
            self._read_after = self._last
        self._take_over_copies(filled)

    def _refuse_kept(self, error: KeypostError) -> None:
        """Give up what was kept for a user who turns out not to exist."""
        for item in self._early.let_go():
            self._outcomes.refuse(item, error)

    async def _has_anything(self) -> bool:
        if self._ready or self._fresh or self._handed:
            return True
        kept = await self._means.context.store.run(lambda store: store.outbox.to(self.recipient, limit=1))
        return bool(kept)

    def _take_over(self, filled: Filled, sealing: Sealing) -> list[Item]:
        for item, error in filled.refused:
            self._outcomes.fail(item, error)
        for item, message in filled.unsealed:
            item.message, item.content = message, None
            self._ready.append(item)
        group: list[Item] = []
        for item, message, sealed in filled.sealed:
            item.message = message
            item.content = None
            self._early.kept.pop(message.message_id, None)
            self._last = max(self._last, message.counter)
            if isinstance(sealed, KeypostError):
                self._outcomes.refuse(item, sealed)
                continue
            item.sealed, item.new_session = sealed, False
            if not group:
                # Not when it was looked up: that is done ahead too, and may lead to nothing.
                self._outcomes.show_look_up(sealing.peer_record)
            self._outcomes.show_sealed(sealed, sealing)
            group.append(item)
        for item, error in filled.emptied:
            self._outcomes.give_up(item, error)
        self._take_over_copies(filled)
        return group

    def _take_over_copies(self, filled: Filled) -> None:
        if filled.copies:
            self._means.keep_copies()

    def _answered(self, item: Item, answer: Answer | Broken | Outdated) -> None:
        self._unanswered -= 1
        self._changed.set()
        if isinstance(answer, pb.Stored):
            self._store(item, answer.accept_time)
            self._outcomes.show_handed_over(item)
        else:
            self._answers[item] = answer

    def _store(self, item: Item, accept_time: int) -> None:
        if self._handed and self._handed[0] is item:
            self._handed.popleft()
        else:
            self._handed.remove(item)
        self._calm()
        self._rounds = 0
        self._outcomes.stored(item, accept_time)
        counter = item.begun.counter
        # Nothing was handed over before its turn.
        self._drained.gone(min(counter, self._handed[0].begun.counter - 1) if self._handed else counter)

    async def _repair(self) -> None:
        """Every answer is in: deal with the first that is not of being stored, and hand over again what is left."""
        already = self._store_what_is_there()
        self._resumes = True
        if not self._answers:
            return
        first = next((item for item in self._handed if not isinstance(self._answers[item], pb.Held)), self._handed[0])
        answer = self._answers[first]
        self._answers.clear()
        seal_again = False
        match answer:
            case pb.StaleKeys():
                self._outcomes.show_handed_over(first)
                await self._learn(answer)
                seal_again = True
            case Outdated():
                seal_again = True
            case Broken():
                if answer.final:
                    raise answer.error
                self._note(answer.error)
            case Refusal():
                seal_again = await self._judge(first, answer)
            case _ if already:
                # A service of an earlier version holds what follows one that it has.
                pass
            case _:
                await self._wait(UnreachableError("delivery holds back what follows nothing", service="delivery"))
        again, self._handed = self._handed, deque()
        self._ready.extendleft(reversed(again))
        if seal_again:
            for item in self._ready:
                item.sealed = None

    def _store_what_is_there(self) -> bool:
        """Settle what delivery has under an earlier seal; return whether there was any."""
        there = [item for item in self._handed if is_stored_already(self._answers[item])]
        for item in there:
            self._store(item, self._means.context.clock())
            del self._answers[item]
        return bool(there)

    async def _judge(self, item: Item, refusal: Refusal) -> bool:
        """Deal with a refusal; return whether what is left has to be sealed again."""
        error = refusal.error
        if error.reason == SESSION_STALE and not item.sealed_now.new_session:
            # By delivery's clock the session is over, or by the constants that it knows: another one serves.
            self._next_is_new_session = True
            return True
        if error.reason == SENDER_IS_NOT_CALLER and item.sealed_now.signer != self._means.signer():
            return True
        if error.reason in NO_ROOM and item.is_part:
            # A recipient who reads slower than this device sends is no reason to begin a file anew.
            await self._wait(error, refusal.retry_after_ms)
            return False
        if is_final(error):
            self._handed.remove(item)
            self._outcomes.refuse(item, error)
            return False
        if not refusal.retriable:
            raise error
        await self._wait(error, refusal.retry_after_ms)
        return False

    async def _learn(self, stale: pb.StaleKeys) -> None:
        sealing = self._sealing
        if sealing is None:
            raise AssertionError
        self._rounds += 1
        if self._rounds >= ROUNDS:
            self._rounds = 0
            raise RefusedError(
                "STALE_KEYS",
                f"the keys of {self.recipient} or of this user change faster than a message can be sealed; it stays in "
                "the outbox and goes out later",
                retriable=True,
            )
        if not await self._means.learn(stale, sealing.own_record, sealing.peer_record):
            await self._means.retries.sleep(self._means.retries.backoff.delay(self._rounds - 1))

    async def _wait(self, error: KeypostError, retry_after_ms: int | None = None) -> None:
        """Wait before the next attempt at something that may mend."""
        self._note(error)
        delay = self._means.retries.backoff.delay(self._failures, retry_after_ms)
        self._failures += 1
        await self._means.retries.sleep(delay)

    def _note(self, error: KeypostError) -> None:
        """Note what keeps the lane from going on, and from when on nobody waits for it any longer."""
        self._trouble = error
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._means.retries.patience, self._run_out)

    def _calm(self) -> None:
        self._trouble = None
        self._failures = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run_out(self) -> None:
        if self._timer is not None:
            self._telling = asyncio.create_task(self._tell_who_waited(self._timer))

    async def _tell_who_waited(self, timer: asyncio.TimerHandle) -> None:
        """Tell those who have waited long enough; what is kept goes out later, without them."""
        # What somebody works at just now is in none of the lists.
        async with self._turn:
            if self._timer is timer:
                self._timer = None
                if self._trouble is not None:
                    self._tell_late(self._trouble)

    def _tell_late(self, error: KeypostError) -> None:
        self._drained.fail(error)
        # A timer may be early by as much as the loop's clock is coarse.
        latest = asyncio.get_running_loop().time() - self._means.retries.patience + EARLY
        begun = [*self._handed, *self._going, *self._ready, *self._early.kept.values()]
        for item in begun:
            if item.put_time <= latest:
                self._outcomes.stop_waiting(item, error)
        for item in [item for item in self._fresh if item.put_time <= latest]:
            self._fresh.remove(item)
            # Of what is to be kept, only what has no room is not in the outbox by now.
            self._outcomes.fail(item, (self._early.no_room if item.keep else None) or error)
        later = [item.put_time for item in (*begun, *self._fresh) if item.listener is not None]
        if later:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(min(later) + self._means.retries.patience, self._run_out)

    def _give_up(self, error: KeypostError) -> None:
        """Stop for now: whoever waits is told, and what is kept in the outbox goes out another time."""
        self._drained.fail(error)
        for item in (*self._handed, *self._ready, *self._early.kept.values()):
            self._outcomes.stop_waiting(item, error)
        for item in self._fresh:
            self._outcomes.fail(item, error)
        for items in (self._handed, self._ready, self._fresh):
            items.clear()
        self._answers.clear()
        self._early.let_go()
        self._read_after = 0
        self._resumes = True
        self._next_is_new_session = False


def _has_other_devices(sealing: Sealing) -> bool:
    return any(key.address != sealing.own.address for key in sealing.own_record.good_keys(sealing.now))


def _failure(answer: Answer | Broken | Outdated) -> str:
    """Return why an envelope was not stored, in a word; nothing if it was."""
    match answer:
        case pb.Stored():
            return ""
        case pb.StaleKeys():
            return "STALE_KEYS"
        case Broken() | Refusal():
            return answer.error.reason
    return "HELD"
