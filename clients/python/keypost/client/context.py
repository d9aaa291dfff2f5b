"""What all parts of a client share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from keypost.client.results import Event
from keypost.errors import KeypostError
from keypost.protocol.steps import Step, negotiation_step, renewal_step
from keypost.tracing import Traces

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from keypost.client.results import OnEvent
    from keypost.client.store_worker import StoreWorker
    from keypost.clock import Clock
    from keypost.protocol.steps import Observer
    from keypost.protocol.suites import Suite

log = logging.getLogger("keypost")
# Without a handler of the application's Python prints warnings on standard error; the command line tells them itself.
log.addHandler(logging.NullHandler())
LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "set_aside": logging.WARNING}

IdentityChange = Literal["block", "warn"]
"""``block``: nothing is sent until the application accepts it. ``warn``: it is taken over, and told."""
KeyGenerator = Callable[["Suite"], "RSAPrivateKey"]


@dataclass(frozen=True)
class Context:
    """Dependencies of a client's parts.

    Attributes:
        realm: The realm.
        store: The key store, off the event loop.
        clock: The time.
        minimum_suite: Every key that takes part must reach it.
        observer: Sees the steps of the source document; called on the event loop.
        on_event: Hears what no call returns; called on the event loop.
        generate: Makes private keys (slow; called in a thread).
        random: Returns random bytes.
        on_identity_change: What becomes of a peer's changed identity that was not verified.
        traces: What is told of messages and calls, if anybody listens.
    """

    realm: str
    store: StoreWorker
    clock: Clock
    minimum_suite: Suite
    observer: Observer | None
    on_event: OnEvent | None
    generate: KeyGenerator
    random: Callable[[int], bytes] = field(repr=False)
    on_identity_change: IdentityChange = "block"
    traces: Traces = field(default_factory=Traces, repr=False)

    def show(self, step: Step) -> None:
        """Show a step to the observer; one that fails is logged, and stops nothing."""
        if self.observer is not None:
            try:
                self.observer(step)
            except Exception:
                log.exception("the application's observer failed at a step")

    def negotiation(self, step: int, actor: object, **facts: str | int) -> None:
        """Show a step of the negotiation that happened now."""
        self.show(negotiation_step(step, str(actor), self.clock(), **facts))

    def renewal(self, step: int, actor: object, **facts: str | int) -> None:
        """Show a step of the renewal that happened now."""
        self.show(renewal_step(step, str(actor), self.clock(), **facts))

    def tell(self, kind: str, reason: str, sentence: str, **facts: str | int) -> None:
        """Tell the application, and the log, of something that no call returns.

        An application that fails at it is logged, and stops nothing.
        """
        log.log(LEVELS.get(kind, logging.INFO), "%s: %s", reason, sentence)
        if self.on_event is not None:
            try:
                self.on_event(Event(kind, reason, sentence, facts))
            except Exception:
                log.exception("the application's on_event failed at %s", reason)


class StepLog:
    """Notes the steps of the negotiation as they happen in a transaction, to be shown once it is written.

    Args:
        actor: Who does them.
        clock: The time.
    """

    def __init__(self, actor: object, clock: Clock) -> None:
        self.steps: list[Step] = []
        self._actor, self._clock = str(actor), clock

    def add(self, number: int, **facts: str | int) -> None:
        """Note a step that happened now."""
        self.steps.append(negotiation_step(number, self._actor, self._clock(), **facts))


def as_keypost_error(error: Exception) -> KeypostError:
    """Return the error itself, or for one that nobody foresaw an error that shows nothing of the message."""
    if isinstance(error, KeypostError):
        return error
    return unforeseen(error, "; the message is kept as it came")


def unforeseen(error: Exception, more: str = "") -> KeypostError:
    """Return what stands for an error that nobody foresaw: its kind alone."""
    return KeypostError(f"an unforeseen {type(error).__name__}: please report it{more}")


def short(fingerprint: bytes) -> str:
    """Return the short form of a fingerprint or key_id, for people."""
    return fingerprint.hex()[:8]
