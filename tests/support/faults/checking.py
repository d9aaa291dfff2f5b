"""What the journals of all devices must say together: pure.

Every message whose ``send`` returned, or that the client said it keeps, is at every device that it was for exactly
once, in the order in which its sender sent it; and so is its copy at the other devices of its sender. One whose
``send`` raised or never came back may be there, once, in its place. Nothing else is there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from support.faults.journal import GOT, HANDLED, KEPT, OPENED, RAISED, SEND, SENT, TOLD

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from support.faults.journal import Line

LOST = "lost"
DOUBLED = "doubled"
REORDERED = "reordered"
FOREIGN = "foreign"
HANDED_OUT_AGAIN = "handed out again"
GAP = "gap"
TOLD_OF = "told"
MOST_TOLD = 40


@dataclass(frozen=True)
class Difference:
    """One way in which what happened is not what must happen.

    Attributes:
        kind: One of the words of this module.
        device: At which device.
        sentence: What it is.
    """

    kind: str
    device: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.device}: {self.kind}: {self.sentence}"


@dataclass(frozen=True)
class Outgoing:
    """One message as its sender noted it."""

    number: int
    digest: str
    message_id: str | None = None


@dataclass
class DeviceJournal:
    """What one device noted.

    Attributes:
        name: What the run calls the device.
        username: Whose it is.
        lines: What it noted, in order.
    """

    name: str
    username: str
    lines: Sequence[Line] = field(repr=False)

    def of(self, *kinds: str) -> Iterator[Line]:
        """Return the lines of these kinds."""
        return (line for line in self.lines if line["line"] in kinds)

    @cached_property
    def addresses(self) -> set[str]:
        """The addresses under which it opened its profile: one, if all is well."""
        return {line["address"] for line in self.of(OPENED) if line["address"]}

    @cached_property
    def outgoing(self) -> Mapping[str, Mapping[int, Outgoing]]:
        """What it began to send, by recipient and number, in order."""
        ids = {(line["to"], line["n"]): line["message_id"] for line in self.of(SENT)}
        outgoing: dict[str, dict[int, Outgoing]] = {}
        for line in self.of(SEND):
            to, number = line["to"], line["n"]
            outgoing.setdefault(to, {})[number] = Outgoing(number, line["digest"], ids.get((to, number)))
        return outgoing

    @cached_property
    def inbox(self) -> Sequence[Line]:
        """For each place in the inbox the line with which it was first handed out."""
        first: dict[int, Line] = {}
        for line in self.of(GOT):
            first.setdefault(line["sequence"], line)
        return list(first.values())

    def kept(self, to: str) -> set[str]:
        """Return the ids of messages to a user that the client said it keeps until they are delivered."""
        return {line["message_id"] for line in self.of(KEPT) if line["to"] == to}


@dataclass(frozen=True)
class Flow:
    """Everything that one device sent to one user, and where it must be."""

    sender: DeviceJournal
    to: str
    at: Sequence[DeviceJournal]


def find_differences(journals: Sequence[DeviceJournal], *, copies: bool = True) -> list[Difference]:
    """Compare the journals of all devices.

    Args:
        journals: All of them.
        copies: Whether what a device sends must also be at the other devices of its user.
    """
    found = [difference for journal in journals for difference in _by_itself(journal, journals)]
    for flow in _flows(journals, copies=copies):
        for receiver in flow.at:
            found += _of_flow(flow, receiver)
    return found


def _flows(journals: Sequence[DeviceJournal], *, copies: bool) -> Iterator[Flow]:
    for sender in journals:
        for to in sender.outgoing:
            users = {to, sender.username} if copies else {to}
            yield Flow(sender, to, [other for other in journals if other.username in users and other is not sender])


def _of_flow(flow: Flow, receiver: DeviceJournal) -> Iterator[Difference]:
    """Yield what a flow lacks at one device, or has there twice or out of order."""
    sent = flow.sender.outgoing[flow.to]
    arrived = [line for line in receiver.inbox if _is_of(line, flow)]
    by_id = {line["message_id"] for line in arrived}
    numbers = [line["n"] for line in arrived]
    where = f"of {flow.sender.name} to {flow.to}"
    for message in sent.values():
        if message.message_id is not None and message.message_id not in by_id:
            yield Difference(LOST, receiver.name, f"message {message.number} {where}, {message.message_id}")
    for message_id in sorted(flow.sender.kept(flow.to) - by_id - {message.message_id for message in sent.values()}):
        yield Difference(LOST, receiver.name, f"a message {where} that was kept, {message_id}")
    for number, times in Counter(numbers).items():
        if times > 1:
            yield Difference(DOUBLED, receiver.name, f"message {number} {where} is in the inbox {times} times")
    for earlier, later in pairwise(dict.fromkeys(numbers)):
        if later < earlier:
            yield Difference(REORDERED, receiver.name, f"message {later} {where} came after {earlier}")


def _is_of(line: Line, flow: Flow) -> bool:
    return bool(line["device"] == flow.sender.name and line["to"] == flow.to)


def _by_itself(journal: DeviceJournal, journals: Sequence[DeviceJournal]) -> Iterator[Difference]:
    yield from _handing_out(journal)
    by_name = {each.name: each for each in journals}
    for line in journal.inbox:
        if why := _foreign(line, journal, by_name):
            yield Difference(FOREIGN, journal.name, f"{why}: {_shown(line)}")
        if line["missed"]:
            yield Difference(GAP, journal.name, f"{line['missed']} earlier ones are missing: {_shown(line)}")
    if len(journal.addresses) > 1:
        yield Difference(TOLD_OF, journal.name, f"it had several addresses: {sorted(journal.addresses)}")
    for line in list(journal.of(TOLD))[:MOST_TOLD]:
        yield Difference(TOLD_OF, journal.name, f"{line['kind']} {line['reason']}: {line['sentence']}")
    for line in journal.of(RAISED):
        if not line["expected"]:
            yield Difference(TOLD_OF, journal.name, f"send raised {line['reason']}: {line['sentence']}")


def _handing_out(journal: DeviceJournal) -> Iterator[Difference]:
    """Yield what was handed out again although it was handled, or without saying so."""
    handled: set[int] = set()
    handed_out: dict[int, str] = {}
    for line in journal.of(GOT, HANDLED):
        sequence = line["sequence"]
        if line["line"] == HANDLED:
            handled.add(sequence)
            continue
        if sequence in handled:
            yield Difference(HANDED_OUT_AGAIN, journal.name, f"it was handled already: {_shown(line)}")
        elif sequence in handed_out and not line["redelivered"]:
            yield Difference(HANDED_OUT_AGAIN, journal.name, f"not marked as redelivered: {_shown(line)}")
        if handed_out.setdefault(sequence, line["message_id"]) != line["message_id"]:
            yield Difference(FOREIGN, journal.name, f"its place was another message's: {_shown(line)}")


def _foreign(line: Line, journal: DeviceJournal, by_name: Mapping[str, DeviceJournal]) -> str | None:
    """Return why a message does not belong into an inbox; None if it does."""
    sender = by_name.get(line["device"])
    if sender is None or line["sender"] not in sender.addresses:
        return "who signed it did not write it"
    if line["copy"]:
        belongs = sender.username == journal.username and sender is not journal
    else:
        belongs = line["to"] == journal.username
    if not belongs:
        return "it was for another user"
    sent = sender.outgoing.get(line["to"], {}).get(line["n"])
    if sent is None or sent.digest != line["digest"]:
        return "it is not what was sent"
    if sent.message_id not in (None, line["message_id"]):
        return "it was sent under another id"
    return None


def _shown(line: Line) -> str:
    names = ("device", "to", "n", "message_id", "sequence")
    return ", ".join(f"{name} {line[name]}" for name in names)


def count(journals: Sequence[DeviceJournal]) -> dict[str, Any]:
    """Return how much there was, for the report."""
    lines = Counter(line["line"] for journal in journals for line in journal.lines)
    got = [line for journal in journals for line in journal.of(GOT)]
    return {
        "sends_begun": lines[SEND],
        "sends_returned": lines[SENT],
        "sends_raised": lines[RAISED],
        "messages_kept": lines[KEPT],
        "messages_received": sum(len(journal.inbox) for journal in journals),
        "copies_received": sum(line["copy"] for journal in journals for line in journal.inbox),
        "handed_out_again_as_redelivered": sum(line["redelivered"] for line in got),
    }
