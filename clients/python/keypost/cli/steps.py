"""The steps of the source document, shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.text import Text

if TYPE_CHECKING:
    from keypost.protocol.steps import Step

SHORT = 8
FINGERPRINT_DIGITS = 64


def step_as_json(step: Step) -> dict[str, Any]:
    """Return the step as one JSON object."""
    return {
        "list": step.list,
        "step": step.step,
        "title": step.title,
        "actor": step.actor,
        "time": step.time,
        "facts": dict(step.facts),
    }


def step_as_text(step: Step) -> Text:
    """Return the step as one line for people, with its facts on the next."""
    moment = datetime.fromtimestamp(step.time / 1000, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    line = Text(f"{step.list} {step.step:>2}  ", style="bold")
    line.append(step.title, style="default").append(f"  {short_actor(step.actor)}  {moment}", style="dim")
    return line.append(f"\n                {facts_for_people(step.facts)}", style="dim") if step.facts else line


def short_actor(actor: str) -> str:
    """Return an address with its device id cut to what tells devices apart: ``alice/abcd``."""
    username, slash, device_id = actor.partition("/")
    return f"{username}{slash}{device_id[:4]}"


def facts_for_people(facts: Any) -> str:
    """Return facts as ``name value`` pairs; fingerprints by their first eight digits."""
    return " · ".join(f"{name.replace('_', ' ')} {_for_people(name, value)}" for name, value in facts.items())


def _for_people(name: str, value: str | int) -> str:
    if isinstance(value, int) and name.endswith(("_time", "_until")):
        return datetime.fromtimestamp(value / 1000, UTC).astimezone().strftime("%Y-%m-%d")
    if isinstance(value, str) and len(value) >= FINGERPRINT_DIGITS and set(value) <= set("0123456789abcdef"):
        return f"{value[:SHORT]}…"
    return str(value)
