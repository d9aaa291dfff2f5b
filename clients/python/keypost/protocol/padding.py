"""Padding that hides the length of a message (docs/spec.md, "Padding")."""

from __future__ import annotations

from keypost.protocol.encoding import int_bytes
from keypost.protocol.errors import ContentRefusedError

LENGTH_BYTES = 8
LEAST_BYTES = 256


def padded_size(size: int) -> int:
    """Return the size, in bytes, to which ``size`` bytes are padded: Padmé's, at least 256.

    Padmé (Nikitin et al., PETS 2019) adds at most 12 % and leaks O(log log size) bits of the length.
    """
    if size <= LEAST_BYTES:
        return LEAST_BYTES
    exponent = size.bit_length() - 1
    last_bits = exponent - exponent.bit_length()
    mask = (1 << last_bits) - 1
    return (size + mask) & ~mask


def pad(content: bytes) -> bytes:
    """Return the length of ``content`` (8 bytes, big-endian), ``content``, and zeros up to the padded size."""
    framed = int_bytes(len(content)) + content
    return framed.ljust(padded_size(len(framed)), b"\0")


def unpad(padded: bytes) -> bytes:
    """Return what :func:`pad` padded.

    Raises:
        ContentRefusedError: :func:`pad` would not have made these bytes.
    """
    if len(padded) < LEAST_BYTES:
        raise ContentRefusedError("the plaintext is shorter than any padded one")
    size = int.from_bytes(padded[:LENGTH_BYTES], "big")
    content = padded[LENGTH_BYTES : LENGTH_BYTES + size]
    if len(content) != size or pad(content) != padded:
        raise ContentRefusedError("the padding is not the one that the content has")
    return content
