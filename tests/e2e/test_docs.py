"""Every command of the pages works as it is printed, in the page's order, beside a stack that is up."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from keypost_services.embedded.up import PASSPHRASE, commands_to_type
from support.made_parts import ATTACKS, EVENTS, LABELS, LIMITS, METRICS, help_text
from support.no_cluster import put_on_the_path
from support.pages import MADE, PAGES, ROOT, Block, blocks, inline_code, name_of, read
from support.postgres import running_postgres
from support.terminal import Terminal, is_as_shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keypost_services.embedded.stack import Stack

NOT_RUN = {
    ("CONTRIBUTING.md", "make install"): "this test is a part of what it leads to",
    ("CONTRIBUTING.md", "git clone ADDRESS keypost"): "it clones from where the reader found it",
    (
        "CONTRIBUTING.md",
        ".venv/bin/python -m pytest tests/unit/ca/test_settings.py -k durations",
    ): "tests/unit/docs/test_first_change.py does it",
    ("CONTRIBUTING.md", "make check"): "this test is no part of it, and it takes minutes",
    ("README.md", "make run"): "the gate runs it; tests/e2e/test_story.py looks at what it tells",
    ("docs/cli.md", "make up > up.log 2>&1 & stack=$!"): "it starts a stack of its own, in a test of its own",
    ("docs/backups.md", "umask 077"): "for cron; the other is of Valkey, and tests/faults/test_restored.py does it",
    (
        "docs/images.md",
        "make install",
    ): "it needs docker; make test-images does the same with podman",
    (
        "docs/kubernetes.md",
        ".venv/bin/keypost --bundle trial/first/bundle.json --profile trial/first/alice enroll alice --code CODE",
    ): "it needs a cluster that answers",
    (
        "docs/operations.md",
        (
            "openssl x509 -req -copy_extensions copy -in trial/ada/ada.csr -CA trial/service-root.pem "
            "-CAkey trial/service-root.key -days 7 -out trial/ada/ada.pem"
        ),
    ): "tests/unit/docs/test_signed_request.py does it",
    (
        "docs/operations.md",
        "keypost send                                                  sender's application",
    ): "it shows a trace",
    (
        "docs/operations.md",
        (
            "CREATE INDEX CONCURRENTLY ix_device_keys_expire_time_state ON device_keys (expire_time, state) "
            "WHERE state = 1;"
        ),
    ): "tests/integration/ca/test_postgres_schema.py does it",
    ("docs/secrets.md", "PYTHONPATH=tests python -P tests/support/memory.py"): "a measurement: it searches all memory",
    ("docs/sizing.md", "PYTHONPATH=tests .venv/bin/python -m benchmarks.sizing"): "a measurement, of minutes",
    ("docs/source-document.md", "End-to-End Encryption"): "the source document; tests/unit/docs reads it",
}
"""Blocks that are not run, by page and first line, and why."""
WITH_POSTGRES = {"docs/postgres.md", "docs/backups.md"}
"""Pages whose reader has a server of PostgreSQL."""
WITHOUT_CLUSTER = "docs/kubernetes.md"
"""The page whose `kubectl` finds no cluster."""
OTHERS = (ATTACKS, EVENTS, LIMITS, LABELS, METRICS)
"""How made parts begin that are no help text."""
DIAGRAMS = ("flowchart LR", "flowchart TB", "sequenceDiagram")


@pytest.fixture(scope="module")
def clone(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a newcomer has it: the project's files, with `.venv`, and `.keypost` of a stack that is up."""
    folder = tmp_path_factory.mktemp("clone")
    fill(folder)
    (folder / ".keypost").symlink_to(stack.layout.folder)
    return folder


def fill(folder: Path) -> None:
    """Put the project's files and an installed `.venv` into a folder."""
    link_all(ROOT, folder, without={".venv", ".keypost", ".git", "trial", "received"})
    (folder / ".venv").mkdir()
    link_all(Path(sys.prefix), folder / ".venv", without={".installed"})
    (folder / ".venv" / ".installed").touch()


def link_all(source: Path, target: Path, without: set[str]) -> None:
    for file in source.iterdir():
        if file.name not in without:
            (target / file.name).symlink_to(file)


@dataclass
class Reader:
    """Does what a page says.

    Attributes:
        folder: The newcomer's.
        terminal: Where commands are typed.
        printed: What the last commands printed, until the page has shown it.
        to_run: Files that were saved and not run yet.
    """

    folder: Path
    terminal: Terminal
    printed: str | None
    to_run: set[str]

    def console(self, block: Block) -> None:
        self.printed = self.terminal.run(block.text)
        self.to_run = {file for file in self.to_run if file not in block.text}

    def python(self, block: Block) -> None:
        assert block.saved_as, "the paragraph before says: save this as `NAME.py`"
        self.printed = None
        file = self.folder / block.saved_as
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.text, encoding="utf-8")
        self.to_run.add(block.saved_as)

    def text(self, block: Block) -> None:
        assert self.printed is not None, "a text block is what the commands before it print"
        assert is_as_shown(block.text, self.printed), f"{block.text}\nis shown, and this is printed:\n{self.printed}"
        self.printed = None

    def json(self, block: Block) -> None:
        assert json.loads(block.text)
        if self.printed:
            self.text(block)

    def yaml(self, block: Block) -> None:
        # tests/deploy renders it.
        assert yaml.safe_load(block.text)["kind"] == "Kustomization"

    def diff(self, block: Block) -> None:
        # tests/unit/docs/test_first_change.py applies it.
        assert block.text.startswith("--- a/")

    def mermaid(self, block: Block) -> None:
        first, *rest = block.text.splitlines()
        assert first in DIAGRAMS
        words = [line.split()[0] for line in rest if line.strip()]
        assert words.count("subgraph") == words.count("end")


READS = {"console": Reader.console, "python": Reader.python, "text": Reader.text, "json": Reader.json}
READS |= {"yaml": Reader.yaml, "diff": Reader.diff, "mermaid": Reader.mermaid}


def reason_not_to_run(page: Path, block: Block) -> str | None:
    return NOT_RUN.get((name_of(page), block.text.strip().partition("\n")[0]))


@pytest.fixture
def variables(page: Path, tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """What the reader of a page has set: how to reach PostgreSQL, or a `kubectl` that finds no cluster."""
    if name_of(page) == WITHOUT_CLUSTER:
        yield {"PATH": put_on_the_path(tmp_path)}
        return
    if name_of(page) not in WITH_POSTGRES:
        yield {}
        return
    with running_postgres(roles=False) as server:
        yield server.administrators_environment


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(read(page))], ids=name_of)
def test_a_page_works_as_it_is_printed(page: Path, clone: Path, variables: Mapping[str, str]) -> None:
    with Terminal(clone, variables) as terminal:
        reader = Reader(clone, terminal, None, set())
        for block in blocks(read(page)):
            if reason_not_to_run(page, block) is None:
                try:
                    READS[block.language](reader, block)
                except (AssertionError, KeyError) as error:
                    error.add_note(f"{name_of(page)}, line {block.line}")
                    raise
    assert reader.to_run == set(), "saved, and never run"


def test_a_script_starts_and_ends_the_stack_as_the_page_says(tmp_path: Path) -> None:
    fill(tmp_path)
    (block,) = (block for block in blocks(read(ROOT / "docs/cli.md")) if block.text.startswith("make up"))
    with Terminal(tmp_path) as terminal:
        assert "Keypost is up" in terminal.run(block.text)
    parts = [line.split() for line in (tmp_path / "up.log").read_text().splitlines() if " process " in line]
    assert len(parts) == 4
    for part in parts:
        with pytest.raises(ProcessLookupError):
            os.kill(int(part[2]), 0)


def test_what_is_not_run_is_still_there() -> None:
    there = {(name_of(page), block.text.strip().partition("\n")[0]) for page in PAGES for block in blocks(read(page))}
    assert set(NOT_RUN) - there == set()


def help_texts() -> dict[str, str]:
    parts = (made for page in PAGES for made in MADE.finditer(read(page)) if not made["what"].startswith(OTHERS))
    return {made["what"]: made["text"] for made in parts}


@pytest.mark.parametrize("command", sorted(help_texts()))
def test_a_help_text_is_the_real_one(command: str) -> None:
    assert help_texts()[command] == f"```text\n{help_text(command)}\n```\n", "write it anew: make docs"


def test_the_help_texts_that_a_reader_needs_are_shown() -> None:
    assert {"keypost --help", "keypost-ca --help", "keypost-ca init --help"} <= set(help_texts())


def test_the_readme_uses_what_up_says_to_type(stack: Stack) -> None:
    readme = read(ROOT / "README.md")
    assert f"KEYPOST_PASSPHRASE={PASSPHRASE}" in readme
    assert f'Passphrase("{PASSPHRASE}")' in readme
    for name in ("alice", "bob"):
        profile = f"profiles/{name} enroll {name}"
        assert f".keypost/{profile}" in readme
        assert any(f"/{profile}" in command for command in commands_to_type(stack.layout, "RSA3072_AES256"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_says_to_make_can_be_made(page: Path) -> None:
    lines = inline_code(read(page)) | {line for block in blocks(read(page)) for line in block.text.splitlines()}
    targets = {line.split()[1] for line in lines if re.match(r"make [a-z]+", line)}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets <= set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))
