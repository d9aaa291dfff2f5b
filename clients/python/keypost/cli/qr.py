"""QR codes in a terminal."""

from __future__ import annotations

import io

import segno

WHITE_ON_BLACK, PLAIN = "\x1b[97;40m", "\x1b[0m"
"""What is drawn are the light squares: a terminal with other colours would turn the code over."""


def qr_code(text: str) -> str:
    """Return a QR code of ``text`` as lines for a terminal, two rows of modules in each.

    The lowest level of error correction makes the smallest code: a screen has no scratches.
    """
    stream = io.StringIO()
    segno.make_qr(text, error="l").terminal(stream, compact=True)
    return "".join(f"{WHITE_ON_BLACK}{line}{PLAIN}\n" for line in stream.getvalue().splitlines())


def width_of(text: str) -> int:
    """Return how many columns the QR code of ``text`` takes."""
    columns, _ = segno.make_qr(text, error="l").symbol_size()
    return int(columns)
