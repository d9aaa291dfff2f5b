"""Which package imports which: in the code, and in the picture of docs/architecture.md."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import grimp

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOTS = ("keypost", "keypost_services")
LEAVES = frozenset({"errors", "clock", "programs", "tracing"})
"""Modules that all may import."""
Arrow = tuple[str, str]


@cache
def graph() -> grimp.ImportGraph:
    """Return the imports of all modules, those for types alone included."""
    return grimp.build_graph(*ROOTS, exclude_type_checking_imports=False)


def package_of(module: str) -> str:
    """Return the name of the package below ``keypost`` or ``keypost_services``; empty for these two themselves."""
    return module.split(".")[1] if "." in module else ""


def arrows_of_code() -> set[Arrow]:
    """Return who imports whom, package by package, without the leaves."""
    return arrows_between(
        (importer, imported)
        for importer in graph().modules
        for imported in graph().find_modules_directly_imported_by(importer)
    )


def arrows_between(imports: Iterable[tuple[str, str]]) -> set[Arrow]:
    """Return the arrows between packages that imports between modules make."""
    pairs = {(package_of(importer), package_of(imported)) for importer, imported in imports}
    return {(a, b) for a, b in pairs if a != b and a and b and not LEAVES & {a, b}}


def arrows_of_picture(mermaid: str) -> set[Arrow]:
    """Return the arrows of a flowchart; ``a & b --> c & d`` is four.

    Raises:
        ValueError: a line is none that this knows.
    """
    arrows: set[Arrow] = set()
    for line in (text.strip() for text in mermaid.splitlines()[1:]):
        if re.fullmatch(r"subgraph \w+ \[[^]]+\]|end|", line):
            continue
        if not re.fullmatch(r"\w+( & \w+)* --> \w+( & \w+)*", line):
            raise ValueError(f"no arrow: {line}")
        left, right = (side.split(" & ") for side in line.split(" --> "))
        arrows |= {(a, b) for a in left for b in right}
    return arrows
