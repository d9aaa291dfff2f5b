"""The SDK's public surface in lines, and what another one lacks of it (docs/versioning.md)."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import keypost
from keypost import sync

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

REQUIRED = " required"
_KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "by place",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "by place or name",
    inspect.Parameter.KEYWORD_ONLY: "by name",
    inspect.Parameter.VAR_POSITIONAL: "any by place",
    inspect.Parameter.VAR_KEYWORD: "any by name",
}


def surface() -> list[str]:
    """Return a line for each name, method, parameter and attribute that the SDK exports."""
    exported = {f"keypost.{name}": getattr(keypost, name) for name in keypost.__all__ if name != "sync"}
    exported |= {f"keypost.sync.{name}": getattr(sync, name) for name in sync.__all__}
    return sorted({line for name, value in exported.items() for line in _lines(name, value)})


def recorded(file: Path) -> list[str]:
    """Return the lines of a surface that was written to a file."""
    return file.read_text(encoding="utf-8").splitlines()


def broken(before: Iterable[str], now: Iterable[str]) -> list[str]:
    """Return what an application that was written for ``before`` no longer finds, or has to give besides."""
    before, now = set(before), set(now)
    # A parameter may cease to be required.
    gone = [line for line in before - now if line.removesuffix(REQUIRED) not in now]
    callables = {line.partition("(")[0] for line in before if "(" in line}
    demanded = [line for line in now - before if line.endswith(REQUIRED) and line.partition("(")[0] in callables]
    return sorted(gone) + sorted(demanded)


def _lines(name: str, value: Any) -> Iterator[str]:
    yield name
    if inspect.isclass(value):
        if dataclasses.is_dataclass(value):
            yield from (f"{name}.{field.name}" for field in dataclasses.fields(value) if field.name[0] != "_")
        elif not issubclass(value, Exception) and not hasattr(value, "open"):
            # What the SDK itself makes, applications do not: a client is opened, results are handed out.
            yield from _parameters(name, value)
        for member in _members(value):
            yield f"{name}.{member}"
            found = inspect.getattr_static(value, member)
            if isinstance(found, staticmethod | classmethod) or inspect.isfunction(found):
                yield from _parameters(f"{name}.{member}", getattr(value, member))
    elif inspect.isfunction(value):
        yield from _parameters(name, value)


def _members(value: type) -> Iterator[str]:
    for member in dir(value):
        home = next((kind.__module__ for kind in value.__mro__ if member in vars(kind)), "")
        if not member.startswith("_") and home.startswith("keypost."):
            yield member


def _parameters(name: str, value: Any) -> Iterator[str]:
    for parameter in inspect.signature(value).parameters.values():
        if parameter.name != "self":
            may_be_left_out = parameter.default is not parameter.empty or "any" in _KINDS[parameter.kind]
            end = "" if may_be_left_out else REQUIRED
            yield f"{name}({parameter.name}) {_KINDS[parameter.kind]}{end}"
