from __future__ import annotations

from support.attacks import load
from support.made_parts import ATTACKS, table_of_attacks
from support.pages import MADE, ROOT, read


def test_the_attacks_are_those_that_are_tried() -> None:
    (part,) = [made for made in MADE.finditer(read(ROOT / "docs" / "attacks.md")) if made["what"] == ATTACKS]
    assert part["text"] == table_of_attacks(load()), "write it anew: make docs"


def test_every_attack_has_its_row() -> None:
    table = table_of_attacks(load())
    for test, attack in load().items():
        assert f"| {attack.attack} | `{attack.defences[0].function}`" in table, test
        assert table.count(f"(../tests/attacks/{test.partition('::')[0]})") == 1
