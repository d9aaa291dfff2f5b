"""The lock files of the image, and what they are held against: pyproject.toml, constraints.txt, what is installed."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib.metadata import requires
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.pages import ROOT, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from packaging.markers import Marker

FOLDER = ROOT / "deploy" / "image"
KEYPOST, BUILD = FOLDER / "keypost.lock", FOLDER / "build.lock"
BUILD_IN = FOLDER / "build.in"
IMAGE = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "implementation_name": "cpython"}
"""What markers are asked in the image, whatever this machine is."""
_LINE = re.compile(r"(?P<requirement>[^\\\n]+?) \\\n(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)")


@dataclass(frozen=True)
class Locked:
    """A line of a lock: name as PyPI normalizes it, version, where it holds, how many files are allowed."""

    name: str
    version: str
    marker: Marker | None
    hashes: int

    @property
    def in_image(self) -> bool:
        """Whether an image may have it: some Python from 3.11 on, on Linux."""
        return self.marker is None or any(
            self.marker.evaluate(IMAGE | {"python_version": full.rpartition(".")[0], "python_full_version": full})
            for full in ("3.11.0", "3.11.9", "3.13.0")
        )


def locked(text: str) -> dict[str, Locked]:
    """Return the lines of a lock by name.

    Raises:
        ValueError: there is something else in it: a line without a hash, an option, an address.
    """
    if rest := _LINE.sub("", text).strip():
        raise ValueError(f"no line of a lock: {rest.splitlines()[0]}")
    found: dict[str, Locked] = {}
    for match in _LINE.finditer(text):
        requirement = Requirement(match["requirement"])
        (pin,) = requirement.specifier
        if pin.operator != "==" or requirement.url:
            raise ValueError(f"no version alone: {match['requirement']}")
        name = canonicalize_name(requirement.name)
        found[name] = Locked(name, pin.version, requirement.marker, match["hashes"].count("sha256:"))
    return found


def constraints() -> dict[str, str]:
    """Return the versions in constraints.txt by name."""
    pins = (line.split("==") for line in read(ROOT / "constraints.txt").splitlines())
    return {canonicalize_name(name): version for name, version in pins}


def needed_by(requirements: Iterable[str]) -> set[str]:
    """Return the names of all that an image with ``requirements`` has, as the packages installed here say it."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key not in found:
            found.add(key)
            waiting += _dependencies(wanted)
    return {name for name, _ in found}


def _dependencies(of: Requirement) -> Iterator[Requirement]:
    for text in requires(of.name) or ():
        dependency = Requirement(text)
        if any(
            dependency.marker is None or dependency.marker.evaluate(IMAGE | {"extra": extra})
            for extra in ("", *of.extras)
        ):
            yield dependency


def build_requirements() -> list[str]:
    """Return what pyproject.toml builds the wheel with."""
    found: list[str] = tomllib.loads(read(ROOT / "pyproject.toml"))["build-system"]["requires"]
    return found
