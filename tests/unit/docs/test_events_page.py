from __future__ import annotations

from keypost.cli.events import table_of_events
from support.made_parts import EVENTS
from support.pages import MADE, ROOT, read


def test_the_page_lists_the_events_of_the_command_line_as_they_are() -> None:
    (part,) = [made for made in MADE.finditer(read(ROOT / "docs" / "cli.md")) if made["what"] == EVENTS]
    assert part["text"] == table_of_events(), "type `make docs`"
