"""Reads QR codes off a terminal, as a camera would."""

from __future__ import annotations

import re

import zxingcpp

SQUARES = {" ": (0, 0), "█": (255, 255), "▀": (255, 0), "▄": (0, 255)}
SCALE = 4
COLOURS = re.compile("\x1b\\[[0-9;]*m")


def scanned(shown: str) -> str:
    """Return the text of the one QR code in what a terminal shows; light squares are drawn."""
    lines = [line for line in COLOURS.sub("", shown).splitlines() if line and set(line) <= SQUARES.keys()]
    rows = [[SQUARES[square][half] for square in line for _ in range(SCALE)] for line in lines for half in (0, 1)]
    pixels = bytes(pixel for row in rows for _ in range(SCALE) for pixel in row)
    image = zxingcpp.ImageView(pixels, len(rows[0]), len(rows) * SCALE, zxingcpp.ImageFormat.Lum)
    (found,) = zxingcpp.read_barcodes(image)
    return str(found.text)
