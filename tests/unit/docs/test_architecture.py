"""The picture of the code in docs/architecture.md is what the code imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.imports import LEAVES, arrows_between, arrows_of_code, arrows_of_picture, graph, package_of
from support.pages import ROOT, blocks, read

if TYPE_CHECKING:
    from support.imports import Arrow


def picture() -> str:
    page = read(ROOT / "docs" / "architecture.md").split("## How the code is cut")[1]
    (block,) = [block for block in blocks(page) if block.language == "mermaid"]
    return block.text


def differences(shown: set[Arrow], real: set[Arrow]) -> list[str]:
    missing = [f"missing: {a} --> {b}" for a, b in sorted(real - shown)]
    return missing + [f"too many: {a} --> {b}" for a, b in sorted(shown - real)]


def test_the_picture_is_what_the_code_imports() -> None:
    assert differences(arrows_of_picture(picture()), arrows_of_code()) == []


def test_every_package_is_in_the_picture() -> None:
    packages = {package_of(module) for module in graph().modules if "." in module} - LEAVES
    assert packages == {name for arrow in arrows_of_picture(picture()) for name in arrow}


def test_the_leaves_import_nothing_of_ours() -> None:
    for leaf in LEAVES:
        assert graph().find_modules_directly_imported_by(f"keypost.{leaf}") <= {f"keypost.{other}" for other in LEAVES}


def test_an_arrow_missing_and_one_too_many_are_found() -> None:
    shown = arrows_of_picture("flowchart TB\n    subgraph x [some/where]\n    cli --> client & keystore\n    end\n")
    real = arrows_between(
        [
            ("keypost.cli.app", "keypost.client.client"),
            ("keypost.cli.app", "keypost.cli.text"),
            ("keypost.client.client", "keypost.transport.remote_service"),
            ("keypost.client.client", "keypost.errors"),
            ("keypost", "keypost.client"),
        ]
    )
    assert differences(shown, real) == ["missing: client --> transport", "too many: cli --> keystore"]


def test_a_picture_that_nobody_can_read_is_refused() -> None:
    with pytest.raises(ValueError, match="no arrow: cli --- client"):
        arrows_of_picture("flowchart TB\n    cli --- client\n")


def test_an_import_for_types_alone_counts() -> None:
    """``keypost.protocol.continuity`` names the realm's constants, and imports them for types alone."""
    assert "keypost.protocol.realm_trust" in graph().find_modules_directly_imported_by("keypost.protocol.continuity")
