"""Every attack is mapped to what defends, and every function of the map is there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from support.attacks import load
from support.defences import find

HERE = Path(__file__).parent
ATTACKS = load()


def attacks() -> set[str]:
    return {
        f"{file.name}::{node.name}"
        for file in HERE.glob("test_*.py")
        if file != Path(__file__)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_attack_names_its_defence_and_nothing_else_is_named() -> None:
    assert set(ATTACKS) == attacks()


@pytest.mark.parametrize("test", sorted(ATTACKS))
def test_the_functions_that_defend_are_ours(test: str) -> None:
    for defence in (*ATTACKS[test].defences, *ATTACKS[test].behind):
        assert find(defence.function).__module__.partition(".")[0] in {"keypost", "keypost_services"}
        assert defence.instead is None or find(defence.instead)


def test_no_two_attacks_are_told_alike() -> None:
    told = [attack.attack for attack in ATTACKS.values()]
    assert len(set(told)) == len(told)
