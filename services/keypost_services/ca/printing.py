"""How the commands print: facts one a line or as JSON, times in UTC, errors in one line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from keypost.clock import SECOND

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
USAGE = 2
"""The exit code of a command that was used wrongly, or cannot do what it was asked."""


class CommandError(Exception):
    """A command cannot do what it was asked; the message is the one line that its user reads."""


def print_facts(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """Print facts, one a line, those of a fact below it; or as one JSON object."""
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for line in lines_of(facts):
        typer.echo(line)


def lines_of(facts: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Return the lines in which people read facts."""
    for name, value in facts.items():
        title = f"{indent}{name.replace('_', ' ')}:"
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                yield title
                yield from lines_of(one, f"{indent}  ")
            else:
                yield f"{title} {shown_time(one) if name.endswith('_time') else one}"


def check_agreed(question: str, otherwise: str, *, yes: bool) -> None:
    """Ask a person before something that cannot be undone.

    Args:
        question: What is asked.
        otherwise: What to say where it is not done, such as ``nothing was done``.
        yes: They have agreed beforehand.

    Raises:
        CommandError: They do not agree, or there is nobody to ask.
    """
    if yes:
        return
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort as error:
        raise CommandError(f"{otherwise}: nobody agreed (--yes does not ask)") from error
    if not agreed:
        raise CommandError(otherwise)


def shown_time(milliseconds: int) -> str:
    """Return a time as people read it; 0 as none."""
    if milliseconds == 0:
        return "none"
    return datetime.fromtimestamp(milliseconds // SECOND, UTC).strftime("%Y-%m-%d %H:%M UTC")


def read_time(text: str) -> int:
    """Return a time as people write it (ISO 8601; UTC unless it says otherwise), Unix milliseconds.

    Raises:
        ValueError: The text is none.
    """
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * SECOND)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no time such as 2026-01-31 or 2026-01-31T09:30") from error


def fail(error: Exception, code: int = USAGE) -> NoReturn:
    """End the command with one line on standard error."""
    typer.echo(str(error), err=True)
    raise typer.Exit(code) from error
