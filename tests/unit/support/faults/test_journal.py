from __future__ import annotations

import os
from typing import TYPE_CHECKING

from support.faults.journal import SEND, Body, Journal, next_number, read_lines

if TYPE_CHECKING:
    from pathlib import Path


def test_a_journal_is_read_as_it_was_written_and_told_to_the_listener(tmp_path: Path) -> None:
    hears, says = os.pipe()
    journal = Journal(tmp_path / "journal", says)
    journal.write(SEND, to="bob", n=1)
    journal.close()
    os.close(says)
    with os.fdopen(hears, "rb") as heard:
        assert heard.read() == (tmp_path / "journal").read_bytes()
    (line,) = read_lines(tmp_path / "journal")
    assert (line["line"], line["to"], line["n"]) == (SEND, "bob", 1)


def test_half_a_line_of_a_killed_process_spoils_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"line": "send", "n": 1}\n{"line": "se')
    journal = Journal(path)
    journal.write(SEND, n=2)
    journal.close()
    assert [line["n"] for line in read_lines(path)] == [1, 2]
    assert read_lines(tmp_path / "none") == []


def test_numbers_go_on_after_a_restart() -> None:
    lines = [{"line": SEND, "to": "bob", "n": 1}, {"line": SEND, "to": "carol", "n": 7}]
    assert [next_number(lines, to) for to in ("bob", "carol", "dave")] == [2, 8, 1]


def test_a_body_says_where_it_belongs() -> None:
    body = Body("alice-1", "bob", 3, 12.5)
    assert body.write() == body.write()
    assert Body.read(body.write()) == body
    for foreign in (b"", b"\xff", b"[]", b"{}", b"1"):
        assert Body.read(foreign) is None
