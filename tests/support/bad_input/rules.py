"""What the protos and the specification say of each field, written down a second time: the tests' own judge."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from support.bad_input.places import ABSENT, NoText, blank

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from google.protobuf.message import Message

    from support.bad_input.places import Place

Outcome = str
"""``OK``; or status and reason, with the field if one is named: ``INVALID_ARGUMENT/INVALID_FIELD@username``."""

OK: dict[Outcome, str] = {"OK": "the value is good, if another one"}


@dataclass(frozen=True)
class Rule:
    """What may stand at a place.

    Attributes:
        holds: Whether a value may stand there, as far as the place alone says.
        outcomes: What a call may come to with another value for which it holds, each with the reason why.
        named: Which field a refusal names if it does not hold; by default the place, or what is missing within it.
    """

    holds: Callable[[Any], bool]
    outcomes: Mapping[Outcome, str] = field(default_factory=lambda: OK)
    named: str = ""

    def judge(self, place: Place, value: Any, outcome: Outcome) -> str | None:
        """Return what is wrong with an outcome, None if nothing is."""
        held = not isinstance(value, NoText) and self.holds(blank(place.field) if value is ABSENT else value)
        if held:
            return None if outcome in self.outcomes else f"{outcome}, yet expected one of {sorted(self.outcomes)}"
        expected = invalid(place.path if isinstance(value, NoText) else self.named or place.path)
        if outcome == expected or (not place.is_text and re.match(rf"{re.escape(expected)}[.\[]", outcome)):
            return None
        return f"{outcome}, yet expected {expected}"


def invalid(path: str) -> Outcome:
    """Return the refusal of a field."""
    return f"INVALID_ARGUMENT/INVALID_FIELD@{path}"


def refused(why: str, *outcomes: Outcome, ok: bool = False) -> dict[Outcome, str]:
    """Return outcomes that a good value may come to, for a reason."""
    return dict.fromkeys(outcomes, why) | (OK if ok else {})


def never(_value: Any) -> bool:
    """Hold for nothing."""
    return False


def always(_value: Any) -> bool:
    """Hold for everything."""
    return True


def form(pattern: str) -> Callable[[Any], bool]:
    """Hold for the texts of a form."""
    return lambda value: re.fullmatch(pattern, value, re.ASCII) is not None


def size(*sizes: int) -> Callable[[Any], bool]:
    """Hold for bytes of one of these lengths."""
    return lambda value: len(value) in sizes


def size_between(low: int, high: int) -> Callable[[Any], bool]:
    """Hold for what has at least ``low`` and at most ``high`` bytes or entries."""
    return lambda value: low <= len(value) <= high


def number(low: int = 1, high: int = 2**63 - 1) -> Callable[[Any], bool]:
    """Hold for numbers within bounds."""
    return lambda value: low <= value <= high


def statement(kind: type[Message], realm_of_it: str) -> Callable[[Any], bool]:
    """Hold for the bytes of a statement of the realm; whatever else it says."""

    def holds(value: bytes) -> bool:
        try:
            return bool(getattr(kind.FromString(value), "realm") == realm_of_it)  # noqa: B009  # each kind has it
        except DecodeError:
            return False

    return holds


def one_of(*values: Any) -> Callable[[Any], bool]:
    """Hold for these values."""
    return lambda value: value in values


USERNAME = r"[a-z0-9]([a-z0-9._@+-]{0,126}[a-z0-9])?"
DEVICE_ID = r"[a-z2-7]{16}"
REALM = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
username, device_id, realm = form(USERNAME), form(DEVICE_ID), form(REALM)
