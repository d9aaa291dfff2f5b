"""Every link of README and docs/ leads somewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.pages import PAGES, ROOT, anchors, links, name_of, read

if TYPE_CHECKING:
    from pathlib import Path


def dead_links(page: Path) -> list[str]:
    """Return the links of a page within this project that lead nowhere."""
    dead = []
    for link in links(read(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if "://" not in link and (not target.exists() or (anchor and anchor not in anchors(read(target)))):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_a_link_to_a_heading_leads_to_one_only(page: Path) -> None:
    """CHANGELOG.md has the same headings in every version, as Keep a Changelog wants them."""
    assert sorted(anchors(read(page))) == sorted(set(anchors(read(page))))


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading, `here`\n[a](#a-heading-here) [b](#there) [c](gone.md) [d](page.md#no) [e](https://x.org)"
    )
    assert sorted(dead_links(page)) == ["#there", "gone.md", "page.md#no"]


def test_every_page_is_found_from_the_readme() -> None:
    """Whoever starts at the README finds each page by links alone."""
    found, new = set(), {ROOT / "README.md"}
    while new:
        page = new.pop()
        found.add(page)
        targets = {(page.parent / link.partition("#")[0]).resolve() for link in links(read(page)) if "://" not in link}
        new |= {target for target in targets if target in PAGES} - found
        new |= {target / "README.md" for target in targets if target / "README.md" in PAGES} - found
    assert set(PAGES) - found == set()
