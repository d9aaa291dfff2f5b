from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keypost.cli.files import LONGEST_NAME, create_new, safe_name

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("C:\\Windows\\win.ini", "win.ini"),
        (".bashrc", "bashrc"),
        ("..", "file"),
        ("", "file"),
        ("con.txt", "_con.txt"),
        ("a\x1b[31mb\n.txt", "a_[31mb_.txt"),
        ("gpj\u202e.exe", "gpj_.exe"),
        ("-rf", "rf"),
        ("nice photo.jpg", "nice photo.jpg"),
    ],
)
def test_a_name_from_somebody_else_is_made_safe(name: str, expected: str) -> None:
    assert safe_name(name) == expected


def test_a_long_name_is_cut_and_keeps_its_ending() -> None:
    assert safe_name("x" * 500 + ".tar") == "x" * (LONGEST_NAME - 4) + ".tar"


@given(st.text())
def test_no_name_leaves_the_folder(name: str) -> None:
    safe = safe_name(name)
    assert safe
    assert not safe.startswith(".")
    assert not set(safe) & set("/\\\0\n")
    assert len(safe) <= LONGEST_NAME


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    for content in (b"1", b"2", b"3"):
        _, stream = create_new(tmp_path / "new", "a.txt")
        with stream:
            stream.write(content)
    written = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert written == {"a.txt": b"1", "a (1).txt": b"2", "a (2).txt": b"3"}
