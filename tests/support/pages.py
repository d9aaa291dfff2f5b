"""The pages of the documentation: their blocks, links and anchors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
MADE = re.compile(r"(<!-- make docs: (?P<what>[^>]+) -->\n)(?P<text>.*?)(<!-- made -->)", re.DOTALL)
"""A part of a page that ``make docs`` writes."""
_COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:\S*/)?(?:python|pip|make|sh|keypost)\b")
_PARSER = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: The word after the fence.
        text: What stands within.
        line: Where it begins in the page, from 1.
        saved_as: The file that the paragraph before asks to save it as, such as ``hello.py``; empty if it asks nothing.
    """

    language: str
    text: str
    line: int
    saved_as: str


def name_of(page: Path) -> str:
    """Return what a page is called: its path from the root."""
    return page.relative_to(ROOT).as_posix()


def read(page: Path) -> str:
    """Return a page's text."""
    return page.read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """Return the blocks that people wrote, in order; those that ``make docs`` writes are left out.

    They are fenced; of those that are indented only such as look like commands count, and formulas do not.
    """
    found, paragraph = [], ""
    for token in _PARSER.parse(_without_made(text)):
        if token.type == "inline":
            paragraph = token.content
        elif token.type == "fence":
            line = (token.map or [0])[0] + 1
            found.append(Block(token.info.strip(), token.content, line, _saved_as(paragraph)))
            paragraph = ""
        elif token.type == "code_block" and _COMMAND.match(token.content):
            found.append(Block("console", token.content, (token.map or [0])[0] + 1, ""))
    return found


def _without_made(text: str) -> str:
    return MADE.sub(lambda made: "\n" * made[0].count("\n"), text)


def _saved_as(paragraph: str) -> str:
    found = re.search(r"\b[Ss]ave (?:this|it) as\s+`([\w./-]+)`", paragraph)
    return found[1] if found else ""


def inline_code(text: str) -> set[str]:
    """Return what stands between backticks in running text."""
    return {token.content for token in _inline(text) if token.type == "code_inline"}


def links(text: str) -> set[str]:
    """Return where the links of a page lead."""
    return {str(token.attrs["href"]) for token in _inline(text) if token.type == "link_open"}


def anchors(text: str) -> list[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    tokens = _PARSER.parse(text)
    titles = [_plain(after) for token, after in pairwise(tokens) if token.type == "heading_open"]
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def _plain(token: Token) -> str:
    return "".join(child.content for child in token.children or ())


def _inline(text: str) -> Iterator[Token]:
    for token in _PARSER.parse(text):
        yield from token.children or ()
