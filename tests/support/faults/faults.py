"""The faults of a run, drawn from a seed: pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

ALL = "all"
LONGER_THAN_DEADLINES = (6.5, 8.0)
"""Seconds: devices of a run give a call up after 6, services a call of theirs after 5."""
MOST_BYTES_BEFORE_CUT = 40_000
FEW_BYTES_BEFORE_CUT = 200
"""Where no messages pass: a watch says now and then that it stands, and little else."""
AT_ONCE = 1 / 5
"""How many faults come together with another one."""


class Kind(enum.StrEnum):
    """What is done to a part or to a way."""

    KILL = "kill"
    """SIGKILL, and started again at once."""
    FREEZE = "freeze"
    """SIGSTOP for longer than the deadlines, then SIGCONT."""
    REPLACE = "replace"
    """Frozen, while everybody goes to another replica; then SIGCONT: it goes on with what it was asked before."""
    LOSE = "lose"
    """SIGKILL, and started again only when another node of the cluster has taken over."""
    CUT = "cut"
    """All connections end."""
    CUT_AMID = "cut amid"
    """All connections end in the middle of something."""
    REFUSE = "refuse"
    """No connection comes about for longer than the deadlines."""
    STALL = "stall"
    """Nothing passes for longer than the deadlines; then what was held back does."""
    MUTE = "mute"
    """What is asked arrives, but no answer does, for longer than the deadlines; then the connections end."""


PROCESS_KINDS = (Kind.KILL, Kind.FREEZE, Kind.REPLACE, Kind.LOSE)


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: What is done.
        target: A part, or a way ``caller>service`` where the caller may be ``all``.
        seconds: How long it lasts, where it lasts.
        size: After how many bytes the connections end, where it is amid something.
    """

    kind: Kind
    target: str
    seconds: float = 0.0
    size: int = 0

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind} {self.target}{lasts}" + (f" after {self.size} bytes" if self.size else "")


Faults = tuple[Fault, ...]
"""One fault, or several at once."""


@dataclass(frozen=True)
class Places:
    """Where faults can happen.

    Attributes:
        servers: Parts that are no devices.
        replicas: Those of them that stand in for each other.
        nodes: The nodes of the Valkey Cluster; they are not among the servers.
        devices: The devices.
        ways: Every way, ``caller>service``.
    """

    servers: Sequence[str]
    replicas: Sequence[str]
    nodes: Sequence[str]
    devices: Sequence[str]
    ways: Sequence[str]

    def callers_of(self, service: str, *, devices: bool) -> list[str]:
        """Return who has a way to a service, devices or others."""
        pairs = (way.split(">") for way in self.ways)
        return [caller for caller, to in pairs if to == service and (caller in self.devices) is devices]


def endless_faults(drawn: random.Random, places: Places) -> Iterator[Faults]:
    """Yield faults without end: every process is killed once in turn, then every kind comes at every kind of place, in
    a drawn order, again and again; one in so many at once with the next one.
    """
    for part in (*places.servers, *places.nodes, *places.devices):
        yield (Fault(Kind.KILL, part),)
    while True:
        deck = _deck(places)
        drawn.shuffle(deck)
        faults = [_fault(drawn, kind, drawn.choice(choices)) for kind, choices in deck]
        while faults:
            first = faults.pop()
            at_once = faults and drawn.random() < AT_ONCE and _may_come_together(first, faults[-1], places)
            yield (first, faults.pop()) if at_once else (first,)


def few_faults(drawn: random.Random, places: Places) -> Iterator[Faults]:
    """Yield a short selection: each kind of process is killed, and the commonest faults of links come once."""
    devices = places.devices
    deliveries = [replica for replica in places.replicas if replica.startswith("delivery")]
    others = [server for server in places.servers if server not in places.replicas]

    def fault(kind: Kind, *choices: str) -> Fault:
        return _fault(drawn, kind, drawn.choice(choices))

    for choices in ([*places.replicas], *([other] for other in others)):
        yield (fault(Kind.KILL, *choices),)
    yield fault(Kind.KILL, *devices), fault(Kind.STALL, *(f"{delivery}>directory" for delivery in deliveries))
    # Whoever cannot ask gets messages by keys that are renewed meanwhile.
    yield fault(Kind.REPLACE, *deliveries), fault(Kind.MUTE, *(f"{device}>directory" for device in devices))
    yield (fault(Kind.CUT, f"{ALL}>delivery"),)
    yield (fault(Kind.CUT_AMID, *(f"{delivery}>valkey" for delivery in deliveries)),)
    yield fault(Kind.MUTE, *(f"{device}>delivery" for device in devices)), fault(Kind.FREEZE, *others)


def few_faults_of_cluster(drawn: random.Random, places: Places) -> Iterator[Faults]:
    """Yield a selection for a Valkey Cluster: each node is lost in turn, and one is killed and one frozen."""
    for node in drawn.sample(places.nodes, len(places.nodes)):
        yield (Fault(Kind.LOSE, node),)
    for kind in (Kind.KILL, Kind.FREEZE):
        yield (_fault(drawn, kind, drawn.choice(places.nodes)),)
    yield from few_faults(drawn, places)


def _may_come_together(first: Fault, second: Fault, places: Places) -> bool:
    """Return whether two faults are of different parts; of a cluster's nodes one at a time is what it is to endure."""
    return first.target != second.target and not (first.target in places.nodes and second.target in places.nodes)


def _deck(places: Places) -> list[tuple[Kind, list[str]]]:
    """Return every kind with the places where it may happen: one fault comes of each."""
    deck: list[tuple[Kind, list[str]]] = []
    for server in places.servers:
        deck += [(Kind.KILL, [server]), (Kind.FREEZE, [server])]
    for node in places.nodes:
        deck += [(kind, [node]) for kind in (Kind.KILL, Kind.FREEZE, Kind.LOSE)]
    deck += [(Kind.REPLACE, list(places.replicas)), (Kind.KILL, list(places.devices))]
    deck += [(Kind.KILL, list(places.devices)), (Kind.FREEZE, list(places.devices))]
    kinds = [kind for kind in Kind if kind not in PROCESS_KINDS]
    for choices in _ways(places):
        deck += [(kind, choices) for kind in kinds]
    return deck


def _ways(places: Places) -> Iterator[list[str]]:
    """Yield the ways that are of one kind: all devices' to a service, all services' to another."""
    for service in dict.fromkeys(way.split(">")[1] for way in places.ways):
        for devices in (True, False):
            callers = places.callers_of(service, devices=devices)
            if callers:
                # Of all devices' ways at once as often as of one alone.
                everybody = [f"{ALL}>{service}"] * len(callers) if devices and service != "ca" else []
                yield [*(f"{caller}>{service}" for caller in callers), *everybody]


def _fault(drawn: random.Random, kind: Kind, target: str) -> Fault:
    lasts = kind not in (Kind.KILL, Kind.LOSE, Kind.CUT, Kind.CUT_AMID)
    seconds = round(drawn.uniform(*LONGER_THAN_DEADLINES), 1) if lasts else 0.0
    most = MOST_BYTES_BEFORE_CUT if target.endswith((">delivery", ">valkey")) else FEW_BYTES_BEFORE_CUT
    size = drawn.randrange(1, most) if kind is Kind.CUT_AMID else 0
    return Fault(kind, target, seconds, size)
