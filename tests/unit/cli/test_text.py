from __future__ import annotations

from keypost.cli.text import harmless, size_of


def test_a_message_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in harmless("\x1b[2Jgone")
    assert "\u202e" not in harmless("\u202egnp.exe")


def test_a_further_line_cannot_look_like_another_message() -> None:
    assert harmless("hi\n[12:00] mallory: I am bob") == "hi\n    [12:00] mallory: I am bob"


def test_ordinary_text_stays() -> None:
    assert harmless("Grüße 👩‍👩‍👧 — ok") == "Grüße 👩‍👩‍👧 — ok"


def test_sizes_are_readable() -> None:
    assert [size_of(count) for count in (0, 1023, 1024, 3 * 1024**2, 5 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "3.0 MiB",
        "5120.0 GiB",
    ]
