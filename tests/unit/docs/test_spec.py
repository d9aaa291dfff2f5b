from __future__ import annotations

import re
from pathlib import Path

import pytest

import keypost.protocol.encoding as labels
from keypost.protocol import envelope, extension, key_info, tokens
from keypost.protocol.realm_trust import Constants

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
HEADINGS = {line.lstrip("# ") for line in PAGE.splitlines() if line.startswith("#")}
SOURCES = [
    path
    for folder, endings in (("clients/python/keypost", "py"), ("services", "py"), ("protos", "proto"))
    for path in sorted((ROOT / folder).rglob(f"*.{endings}"))
    if "_pb2" not in path.name
]
SECTION = re.compile(r'docs/spec\.md[`]{0,2},\s+((?:"[^"]+"(?:,\s+|\s+and\s+)?)+)')


def referred_to() -> set[str]:
    return {
        name
        for path in SOURCES
        for group in SECTION.findall(re.sub(r"\s+", " ", path.read_text(encoding="utf-8").replace("//", "")))
        for name in re.findall(r'"([^"]+)"', group)
    }


@pytest.mark.parametrize("section", sorted(referred_to()))
def test_a_section_that_the_code_names_exists(section: str) -> None:
    assert section in HEADINGS


def test_the_code_names_sections() -> None:
    assert {"Encoding", "Negotiation", "Renewal", "Tokens"} <= referred_to()


def test_every_link_within_the_page_leads_somewhere() -> None:
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in HEADINGS}
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= anchors


def test_every_label_is_listed() -> None:
    used = {value.decode() for value in vars(labels).values() if isinstance(value, bytes)}
    assert used == set(re.findall(r"^\| `(keypost/v1/[a-z-]+)` \|", PAGE, re.MULTILINE))


def test_the_constants_are_the_codes() -> None:
    text = {"1 h": 3_600_000, "7 d, 10,000": 604_800_000, "30 d": 2_592_000_000, "60 d": 5_184_000_000}
    constants = Constants()
    for name, shown in (("record_lifetime", "1 h"), ("mailbox_age", "30 d"), ("retention", "60 d")):
        assert f"| `{name}` | {shown} |" in PAGE
        assert getattr(constants, name) == text[shown]
    assert (constants.rotation_period, constants.rotation_messages) == (text["7 d, 10,000"], 10_000)


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ("| envelope | 256 KiB |", envelope.MOST_ENVELOPE_BYTES == 256 * 1024),
        ("| header | 4 KiB |", envelope.MOST_HEADER_BYTES == 4 * 1024),
        ("| extension statement | 16 KiB |", extension.MOST_EXTENSION_BYTES == 16 * 1024),
        ("| recipient devices of a message | 100 |", extension.MOST_DEVICES == 100),
        ("| entries and history of a record | 1,000 |", key_info.MOST_ENTRIES == 1_000),
        ("| token | 4,096 characters; 10 minutes |", tokens.MOST_TOKEN_CHARACTERS == 4_096),
    ],
)
def test_a_limit_is_the_codes(row: str, value: bool) -> None:  # noqa: FBT001
    assert row in PAGE
    assert value
