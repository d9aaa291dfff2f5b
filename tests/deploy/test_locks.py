"""What the image is made of is locked: every file by its hash, and as pyproject.toml and constraints.txt have it."""

from __future__ import annotations

import pytest

from support.locks import BUILD, BUILD_IN, KEYPOST, build_requirements, constraints, locked, needed_by
from support.pages import read

AGAIN = "type `make lock`"


@pytest.mark.parametrize("path", [KEYPOST, BUILD], ids=lambda path: path.name)
def test_versions_are_those_of_the_constraints(path: object) -> None:
    lock, pins = locked(read(path)), constraints()  # type: ignore[arg-type]
    differing = {
        each.name: (each.version, pins[each.name])
        for each in lock.values()
        if each.name in pins and each.version != pins[each.name]
    }
    assert differing == {}, AGAIN


def test_the_image_has_what_its_extra_asks_for_and_nothing_else() -> None:
    in_image = {each.name for each in locked(read(KEYPOST)).values() if each.in_image}
    # What only some versions of Python need is not asked for here.
    everywhere = {each.name for each in locked(read(KEYPOST)).values() if each.marker is None}
    needed = needed_by(["keypost[image]"]) - {"keypost"}
    assert needed <= in_image, AGAIN
    assert everywhere <= needed, AGAIN


def test_all_of_it_is_tested_in_the_same_versions() -> None:
    in_image = {each.name for each in locked(read(KEYPOST)).values() if each.in_image}
    assert in_image - constraints().keys() == set(), "name it in constraints.txt"


def test_the_wheel_is_built_by_what_pyproject_says() -> None:
    asked = [line for line in read(BUILD_IN).splitlines() if not line.startswith("#")]
    assert {line for line in asked if not line.startswith("cyclonedx-bom==")} == set(build_requirements())
    lock = locked(read(BUILD))
    versions = dict(line.split("==") for line in asked)
    assert {name: lock[name].version for name in versions} == versions, AGAIN


def test_a_lock_without_a_hash_or_with_an_address_is_none() -> None:
    line = f"thing==1.0 \\\n    --hash=sha256:{'0' * 64}\n"
    assert locked(line)["thing"].hashes == 1
    for bad in ("thing==1.0\n", f"--index-url https://mirror.example/simple\n{line}", line.replace("==", ">=")):
        with pytest.raises(ValueError, match="no "):
            locked(bad)
