from __future__ import annotations

import re

import pytest

from support.pages import PAGES, ROOT, anchors, read

PAGE = ROOT / "docs" / "glossary.md"
TERMS = dict(part.strip().split("\n\n", 1) for part in read(PAGE).split("\n### ")[1:])
ELSEWHERE = "\n".join(
    file.read_text(encoding="utf-8") for file in (*PAGES, *ROOT.glob("protos/**/*.proto")) if file != PAGE
)


def word(term: str) -> str:
    return r"\b" + term.replace(" ", r"\s+") + r"s?\b"


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_used(term: str) -> None:
    assert re.search(word(term), ELSEWHERE, re.IGNORECASE)


@pytest.mark.parametrize("term", TERMS)
def test_a_definition_links_the_terms_that_it_uses(term: str) -> None:
    definition = TERMS[term]
    linked = {anchor for _, anchor in re.findall(r"\[([^]]+)\]\(#([\w-]+)\)", definition)}
    rest = re.sub(r"\[[^]]+\]\([^)]*\)|`[^`]*`", "·", definition)
    used = {other for other in TERMS if other != term and re.search(word(other), rest)}
    assert {other.replace(" ", "-") for other in used} - linked == set()
    assert linked <= set(anchors(read(PAGE)))


def test_a_page_for_people_leads_to_the_glossary() -> None:
    for name in ("architecture", "embed-the-sdk", "operations", "threat-model", "write-a-client"):
        assert "(glossary.md" in read(ROOT / "docs" / f"{name}.md"), name


def test_there_are_terms() -> None:
    assert {"realm", "endorsement", "key extension", "suite"} <= set(TERMS)
