"""Writes down the SDK's public surface, of which the next version takes nothing away.

``PYTHONPATH=tests .venv/bin/python tests/upgrade/make_api.py``
"""

from __future__ import annotations

from pathlib import Path

from support.public_api import surface

FILE = Path(__file__).with_name("previous_api.txt")

if __name__ == "__main__":
    FILE.write_text("\n".join(surface()) + "\n", encoding="utf-8")
