"""Responses put together from messages that are kept serialised: what is inside is neither parsed nor copied by parts.

A message in a field is its tag, its length and its bytes, and fields may come in any order
(https://protobuf.dev/programming-guides/encoding/). A test compares what is built here with what protobuf builds.
"""

from __future__ import annotations

_LENGTH_DELIMITED = 2
_MORE = 0x80


def varint(number: int) -> bytes:
    """Return a number, 0 or more, in base 128, the lowest digits first."""
    digits = bytearray()
    while number >= _MORE:
        digits.append(number & 0x7F | _MORE)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def head(field: int, size: int) -> bytes:
    """Return what stands before the bytes of a message, a string or bytes in a field.

    Args:
        field: The number of the field.
        size: How many bytes there are.
    """
    return varint(field << 3 | _LENGTH_DELIMITED) + varint(size)
