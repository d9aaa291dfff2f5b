"""The pages name settings, metrics and commands that there are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import typer.main

from keypost.cli.app import app as keypost
from keypost_services.ca.command_line import app as keypost_ca
from keypost_services.embedded.command_line import app as keypost_embedded
from keypost_services.runtime.config import variable_of
from keypost_services.runtime.setting_files import file_variable, may_be_in_file
from support.pages import PAGES, ROOT, blocks, inline_code, name_of, read
from support.settings_page import SERVICES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMANDS = {
    "keypost": {*typer.main.get_group(keypost).commands},
    "keypost-ca": {*typer.main.get_group(keypost_ca).commands},
    "keypost-embedded": {*typer.main.get_group(keypost_embedded).commands},
    "keypost-directory": {"serve"},
    "keypost-delivery": {"serve"},
}
CALLED = re.compile(r"(?:^|\| )(keypost(?:-[a-z]+)?)(?: --?\S+(?: \S*/\S+)?)* ([a-z]+(?:-[a-z]+)*)\b")
SOURCES = [
    path.read_text(encoding="utf-8")
    for folder in ("clients/python/keypost", "services/keypost_services")
    for path in (ROOT / folder).rglob("*.py")
]


def settings() -> set[str]:
    services = {variable_of(kind, field) for kind in SERVICES.values() for field in kind.model_fields}
    services |= {
        file_variable(variable_of(kind, name))
        for kind in SERVICES.values()
        for name, field in kind.model_fields.items()
        if may_be_in_file(field)
    }
    services |= set(re.findall(r"\$\{(KEYPOST_[A-Z_]+)", read(ROOT / "compose.yaml")))
    return services | set(re.findall(r'"(KEYPOST_[A-Z_]+)"', "\n".join(SOURCES)))


def metrics() -> set[str]:
    return set(re.findall(r'"(keypost_[a-z_]+)"', "\n".join(SOURCES)))


def code_of(page: Path) -> Iterator[str]:
    """Yield everything that a page says in code: blocks by line, and what stands between backticks."""
    yield from inline_code(read(page))
    for block in blocks(read(page)):
        yield from block.text.splitlines()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_setting_that_a_page_names_is_one(page: Path) -> None:
    named = {name for code in code_of(page) for name in re.findall(r"\bKEYPOST_[A-Z_]+\b(?!\*)", code)}
    assert named - settings() == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_metric_that_a_page_names_is_one(page: Path) -> None:
    named = {name for code in inline_code(read(page)) for name in re.findall(r"^keypost_[a-z_]+$", code)}
    assert {name.removesuffix("_total") for name in named} - metrics() - {"keypost_services"} == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_a_page_names_is_one(page: Path) -> None:
    named = {(found[1], found[2]) for code in code_of(page) for found in CALLED.finditer(code)}
    assert {(program, command) for program, command in named if command not in COMMANDS[program]} == set()


def test_names_are_found() -> None:
    page = ROOT / "docs" / "operations.md"
    assert "KEYPOST_CA_DATABASE" in settings() & {word for code in code_of(page) for word in re.findall(r"\w+", code)}
    assert {"keypost_degraded", "keypost_calls"} <= metrics()
