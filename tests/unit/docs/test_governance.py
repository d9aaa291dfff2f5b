"""Version, changelog and licence fit together."""

from __future__ import annotations

import hashlib
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - (?P<date>\S+))?$", re.MULTILINE)
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of the licence's text as its authors publish it."""


def test_the_version_has_its_heading() -> None:
    headings = [(found["version"], found["date"]) for found in HEADING.finditer(CHANGELOG)]
    assert headings[0] == ("Unreleased", None)
    assert headings[1][0] == PROJECT["version"] == version("keypost")
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d|unreleased", date or "") for _, date in headings[1:])


def test_changes_are_of_the_kinds_of_keep_a_changelog() -> None:
    found = re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE)
    assert found
    assert set(found) <= KINDS


def test_the_licence_is_the_one_that_is_named() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE", "NOTICE"]
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
