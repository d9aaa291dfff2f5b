"""Runs vectors about safety numbers through ``keypost.protocol``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.protocol import safety_numbers as numbers
from keypost.protocol.safety_numbers import Identity

if TYPE_CHECKING:
    from vectors.core.statements import Case, Shared


def safety_number(case: Case, _: Shared) -> None:
    if "digits" in case:
        assert numbers.digits_of(case["realm"], _identity(case)) == case["digits"]
        return
    one, other = map(_identity, case["own"])
    if "number" in case:
        assert numbers.safety_number(case["realm"], one, other) == case["number"]
        assert numbers.code_of(case["realm"], one, other) == case["code"]
        numbers.compare_code(case["realm"], (one, other), case["code"])
    else:
        numbers.compare_code(case["realm"], (one, other), case["scanned"])


def _identity(user: Case) -> Identity:
    return Identity(user["username"], user["epoch"], bytes.fromhex(user["root"]))
