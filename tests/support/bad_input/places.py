"""Every place in a request where something bad can stand, derived from the descriptors of the protos.

A *place* is a field, an entry of a repeated field, or a field within a statement that travels as bytes; its path is the
one that a refusal names, such as ``envelope.header.sender.username``. ``put`` sets whatever value at a place, also what
the protobuf library itself would not send: a string that is not UTF-8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

from keypost.delivery.v1 import envelope_pb2
from keypost.keys.v1 import key_info_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.message import Message

STATEMENTS: dict[str, type[Message]] = {
    "keypost.keys.v1.SignedKeyRequest.key_request": key_info_pb2.KeyRequest,
    "keypost.keys.v1.SignedRevocation.revocation": key_info_pb2.Revocation,
    "keypost.keys.v1.SignedResetCancellation.reset_cancellation": key_info_pb2.ResetCancellation,
    "keypost.delivery.v1.Envelope.header": envelope_pb2.Header,
    "keypost.delivery.v1.KeyExtension.extension": envelope_pb2.Extension,
}
"""What is serialised within which bytes."""

RANGES = {
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_ENUM: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_BOOL: (0, 1),
}
Field = Any
"""A FieldDescriptor; the library has two classes of them."""
HUGE = 1024 * 1024
UNKNOWN_FIELD = b"\xfa\x3f\x03abc"
"""Of a number that no message has: a later version's, and ignored."""
_MARK = "Q9Z7"
_STEP = re.compile(r"(\w+)(?:\[(\d+)\])?")


@dataclass(frozen=True)
class Absent:
    """Stands for a field that is cleared."""


@dataclass(frozen=True)
class NoText:
    """Stands for a string that is not UTF-8: four bytes with ``broken`` at their end, within the text."""

    broken: bytes


ABSENT = Absent()


@dataclass(frozen=True)
class Place:
    """Where something can stand.

    Attributes:
        path: As a refusal names it.
        field: Its descriptor; of a repeated field, for each entry too.
        whole: It is a repeated field as a whole.
        value: What stands there in the good request.
    """

    path: str
    field: Field
    whole: bool
    value: Any

    @property
    def rule(self) -> str:
        """The path without indices: one rule holds for all entries."""
        return re.sub(r"\[\d+\]", "[]", self.path)

    @property
    def is_text(self) -> bool:
        return self.field.type == FieldDescriptor.TYPE_STRING and not self.whole


def blank(field: Field) -> Any:
    """Return what a reader sees where a value is absent."""
    return {FieldDescriptor.TYPE_STRING: "", FieldDescriptor.TYPE_BYTES: b"", FieldDescriptor.TYPE_MESSAGE: None}.get(
        field.type, 0
    )


def places(message: Message, prefix: str = "") -> Iterator[Place]:
    """Yield every place of a request, outer ones first."""
    for field in message.DESCRIPTOR.fields:
        path, value = prefix + field.name, getattr(message, field.name)
        if field.is_repeated:
            yield Place(path, field, whole=True, value=value)
            for index in sorted({0, len(value) - 1} if value else ()):
                yield from _entry(Place(f"{path}[{index}]", field, whole=False, value=value[index]))
        else:
            # What another kind of a oneof contains is not there; it may only be put in the other's place.
            there = field.message_type is None or message.HasField(field.name)
            yield from _entry(Place(path, field, whole=False, value=value), deep=there)


def _entry(place: Place, *, deep: bool = True) -> Iterator[Place]:
    yield place
    if not deep:
        return
    if place.field.type == FieldDescriptor.TYPE_MESSAGE:
        yield from places(place.value, f"{place.path}.")
    elif (kind := STATEMENTS.get(place.field.full_name)) and place.value:
        yield from places(kind.FromString(place.value), f"{place.path}.")


def put(message: Message, path: str, value: Any) -> None:
    """Set what stands at a place; a statement around it is serialised anew."""
    step, _, rest = path.partition(".")
    matched = _STEP.fullmatch(step)
    assert matched, path
    name, index = matched[1], None if matched[2] is None else int(matched[2])
    field = message.DESCRIPTOR.fields_by_name[name]
    kind = STATEMENTS.get(field.full_name)
    if not rest:
        _set(message, field, index, value)
    elif kind:
        statement = kind.FromString(getattr(message, name))
        put(statement, rest, value)
        setattr(message, name, statement.SerializeToString(deterministic=True))
    else:
        part = getattr(message, name)
        put(part if index is None else part[index], rest, value)


def size_at(message: Any, path: str) -> int:
    """Return how many bytes stand at the place of a message or a statement."""
    for name in path.split("."):
        message = getattr(message, name)
    return len(message) if isinstance(message, bytes) else message.ByteSize()


def _set(message: Any, field: Field, index: int | None, value: Any) -> None:
    value = _MARK if isinstance(value, NoText) else value
    entries = getattr(message, field.name)
    if field.is_repeated and index is None:
        copies = list(value)
        message.ClearField(field.name)
        getattr(message, field.name).extend(copies)
    elif field.message_type is not None:
        _set_message(message, field, index, empty=value is not ABSENT)
    elif index is not None:
        entries[index] = blank(field) if value is ABSENT else value
    elif value is ABSENT and (field.containing_oneof is None or message.HasField(field.name)):
        message.ClearField(field.name)
    elif value is ABSENT:
        setattr(message, field.name, blank(field))  # the kind of a oneof that says nothing
    else:
        setattr(message, field.name, value)


def _set_message(message: Any, field: Field, index: int | None, *, empty: bool) -> None:
    if index is not None:
        getattr(message, field.name)[index].Clear()
        return
    message.ClearField(field.name)
    if empty:
        getattr(message, field.name).SetInParent()


def serialised(message: Message, value: Any) -> bytes:
    """Return a request at one of whose places ``value`` was put."""
    raw = message.SerializeToString(deterministic=True)
    return (
        raw.replace(_MARK.encode(), _MARK.encode()[: -len(value.broken)] + value.broken)
        if isinstance(value, NoText)
        else raw
    )


def nasty(place: Place) -> Sequence[Any]:
    """Return what is worth putting at a place in every run."""
    if place.whole:
        entries = list(place.value)
        return [[], entries * 2, entries * 1000, entries[::-1], *([entries[:1]] if len(entries) > 1 else [])]
    if place.field.type == FieldDescriptor.TYPE_MESSAGE:
        return [ABSENT, {}]
    if place.field.type == FieldDescriptor.TYPE_STRING:
        return [ABSENT, *_nasty_texts(place.value), *map(NoText, (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80"))]
    if place.field.type == FieldDescriptor.TYPE_BYTES:
        return [ABSENT, *_nasty_bytes(place.value)]
    low, high = RANGES[place.field.type]
    numbers = {0, -1, 1, 2, 3, 4, 5, 99, 2**31 - 1, 2**63 - 1, 2**63, low, high}
    # Always as many, whatever stands in a good request, which may be another one each time: what is drawn from a list
    # that becomes longer and shorter is not the same in every run.
    neighbours = (max(low, place.value - 1), min(high, place.value + 1))
    return [ABSENT, *sorted(number for number in numbers if low <= number <= high), *neighbours]


def _nasty_texts(good: str) -> Sequence[str]:
    spoilt = [
        good.upper(),
        f"{good}\n",
        f"\0{good}",
        f" {good}",
        f"{good}\u00e9",
        f"{good}\u200b",
        f"{good}/",
        f"-{good}",
    ]
    return [*spoilt, *("a" * size for size in (1, 16, 128, 129, 253, 254, 4096, HUGE)), "\U0001f600", "..", "%s", "'"]


def _nasty_bytes(good: bytes) -> Sequence[bytes]:
    spoilt = [good[:-1], good[1:], good + b"\0", good + UNKNOWN_FIELD, bytes(len(good)), b"\xff" * len(good), good * 2]
    return [*spoilt, *(bytes(size) for size in (1, 11, 13, 16, 31, 32, 33, 128, 129, 384, 65_536, HUGE))]


def values(place: Place) -> st.SearchStrategy[Any]:
    """Return a strategy for what can be put at a place."""
    small = [value for value in nasty(place) if not isinstance(value, str | bytes) or len(value) < HUGE]
    return st.one_of(st.sampled_from(small), _random(place))


def _random(place: Place) -> st.SearchStrategy[Any]:
    if place.whole:
        return st.lists(st.sampled_from(list(place.value)), max_size=4) if place.value else st.just([])
    if place.field.type == FieldDescriptor.TYPE_MESSAGE:
        return st.sampled_from([ABSENT, {}])
    if place.field.type == FieldDescriptor.TYPE_STRING:
        return st.text(max_size=40) | st.text("ab2z7Z._@+-/\n\0", max_size=140)
    if place.field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=200)
    return st.integers(*RANGES[place.field.type])
