from __future__ import annotations

import re
from pathlib import Path

import pytest

from keypost.protocol.steps import NEGOTIATION_TITLES, RENEWAL_TITLES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "source-document.md").read_text(encoding="utf-8")
FOLDERS = {"keypost/": "clients/python/keypost/", "ca/": "services/keypost_services/ca/"}
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if re.match(r"\| [INMRO][0-9]", line)
]
REFERENCE = re.compile(r"`([\w./-]+\.(?:py|proto|json))(?::(\w+))?`")
REFERENCES = sorted({(path, name) for row in ROWS for path, name in REFERENCE.findall(" ".join(row[2:4]))})
HEADINGS = re.compile(
    r"^(?:End-to-End Encryption|Key Negotiation Process|Message Encryption|CA Key Info\sRenewal|Unread .*)$"
)
DEFINITION = r"^\s*(?:async def|def|class|message|service|rpc|enum)\s+{0}\b|^{0}\b.*="


def sentences() -> list[str]:
    """Return the sentences of the text, without headings, captions, bullets and numbers."""
    block = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert block
    found = []
    for raw in block.group(1).splitlines():
        line = re.sub(r"^\s*(?:[0-9]+\.|•)\s+", "", raw).strip()
        if not line or HEADINGS.match(line) or line.startswith("Figure"):
            continue
        found += re.split(r"(?<=[.:])\s+(?=[A-Z])", line)
    return found


def path_of(reference: str) -> Path:
    for short, long in FOLDERS.items():
        if reference.startswith(short):
            return ROOT / (long + reference.removeprefix(short))
    return ROOT / reference


@pytest.mark.parametrize("sentence", sentences())
def test_every_sentence_has_its_row(sentence: str) -> None:
    assert [row for row in ROWS if row[1] == f'"{sentence}"']


def test_every_row_quotes_the_text() -> None:
    text = sentences()
    assert [row[1] for row in ROWS if row[1].strip('"') not in text] == []
    assert len(text) > 40


def test_the_lists_are_whole() -> None:
    numbers = {row[0] for row in ROWS}
    assert {f"N{step}" for step in NEGOTIATION_TITLES} <= numbers
    assert {f"R{step}" for step in RENEWAL_TITLES} <= numbers
    assert {f"M{point}" for point in range(1, 5)} <= numbers


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1][:30]}")
def test_every_row_says_where_and_what_shows_it(row: list[str]) -> None:
    where, shows = row[2], row[3]
    assert REFERENCE.search(where)
    assert any(path.startswith("tests/") for path, _ in REFERENCE.findall(shows))


@pytest.mark.parametrize(("path", "name"), REFERENCES)
def test_what_a_row_names_exists(path: str, name: str) -> None:
    file = path_of(path)
    assert file.is_file(), file
    if name:
        assert re.search(DEFINITION.format(re.escape(name)), file.read_text(encoding="utf-8"), re.MULTILINE)
