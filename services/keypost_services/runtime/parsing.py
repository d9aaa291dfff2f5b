"""Says which field of a message does not parse.

A protobuf parser refuses a message whole when one of its strings is not UTF-8, and does not say which. Only then the
message is parsed once more, as its *twin*: the same message with each string declared as bytes, in which anything may
stand. There the string is found. What does not parse as its twin either is no such message at all.

The search is for callers who erred, not for those who want to keep the event loop busy: what is larger than any honest
message with strings, or has more values, is refused whole.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from keypost_services.runtime.errors import ServiceError, invalid_field

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

M = TypeVar("M", bound=Message)

MOST_SEARCHED_BYTES = 16 * 1024
"""No honest message is larger, but for what it carries serialised."""
MOST_SEARCHED_VALUES = 1_000
"""An extension with all its devices has about four hundred that are, or may hold, strings."""
REQUEST = "request"
"""What is at fault when no field is: the whole."""
_STRING, _BYTES = FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_BYTES


def parse(kind: type[M], raw: bytes, field: str = "") -> M:
    """Return the message in ``raw``.

    Args:
        kind: What it must be.
        raw: Serialised.
        field: Where these bytes stand in the request; empty: they are the request.

    Raises:
        ServiceError: INVALID_FIELD: they are none.
    """
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise unparsed(kind, raw, field) from error


def unparsed(kind: type[Message], raw: bytes, field: str = "") -> ServiceError:
    """Return the refusal of bytes that do not parse as a ``kind``; arguments as :func:`parse`."""
    descriptor: Any = kind.DESCRIPTOR
    if len(raw) > MOST_SEARCHED_BYTES:
        return _unsearched(descriptor, field)
    try:
        twin = _twin(descriptor).FromString(raw)
        inner = _Search().first(descriptor, twin)
    except DecodeError:
        return invalid_field(field or REQUEST, f"these bytes are no {descriptor.name}")
    except _TooManyValuesError:
        return _unsearched(descriptor, field)
    if inner is None:
        return invalid_field(field or REQUEST, f"these bytes are no {descriptor.name}")
    return invalid_field(f"{field}.{inner}" if field else inner, "it is not UTF-8")


def _unsearched(descriptor: Descriptor, field: str) -> ServiceError:
    return invalid_field(field or REQUEST, f"these bytes are no {descriptor.name}, or a string in it is not UTF-8")


class _TooManyValuesError(Exception):
    """The search has looked at as much as it may."""


class _Search:
    """Looks for the first string that is none; no deeper than the parser went, and it has a limit."""

    def __init__(self) -> None:
        self.values = 0

    def first(self, descriptor: Descriptor, twin: Any) -> str | None:
        """Return the path of the first string that is none."""
        for field in descriptor.fields:
            if field.message_type is None and field.type != _STRING:
                continue
            for name, value in _values(field, twin):
                self._count()
                if (path := self._fault(field, name, value)) is not None:
                    return path
        return None

    def _fault(self, field: FieldDescriptor, name: str, value: Any) -> str | None:
        if field.message_type is None:
            return None if _is_text(value) else name
        path = self.first(field.message_type, value)
        return None if path is None else f"{name}.{path}"

    def _count(self) -> None:
        self.values += 1
        if self.values > MOST_SEARCHED_VALUES:
            raise _TooManyValuesError


def _values(field: FieldDescriptor, message: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values of a field that are there, with their names: ``name`` or ``name[index]``."""
    if field.is_repeated:
        yield from ((f"{field.name}[{index}]", value) for index, value in enumerate(getattr(message, field.name)))
    elif not field.has_presence or message.HasField(field.name):
        yield field.name, getattr(message, field.name)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


@cache
def _twin(descriptor: Descriptor) -> Any:
    pool = DescriptorPool()
    _add_twin_file(pool, descriptor.file, set())
    return GetMessageClass(pool.FindMessageTypeByName(descriptor.full_name))


def _add_twin_file(pool: DescriptorPool, file: FileDescriptor, added: set[str]) -> None:
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add_twin_file(pool, dependency, added)
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    for message in proto.message_type:
        _strings_to_bytes(message)
    pool.Add(proto)


def _strings_to_bytes(message: DescriptorProto) -> None:
    # A map is its entries on the wire, and as a map it could not have bytes as keys.
    message.options.ClearField("map_entry")
    for field in message.field:
        if field.type == _STRING:
            field.type = _BYTES
    for nested in message.nested_type:
        _strings_to_bytes(nested)
