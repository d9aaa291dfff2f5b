"""How the commands print: facts one a line or as JSON, times in UTC, errors in one line or as one JSON object."""

from __future__ import annotations

import json
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from keypost.clock import SECOND
from keypost.errors import KeypostError
from keypost_services.ca.audit import AuditBrokenError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_fails_as_json: ContextVar[bool] = ContextVar("fails_as_json", default=False)
"""Whether the command that runs was told to print JSON."""


def _note_json(context: typer.Context, value: bool) -> bool:  # noqa: FBT001  # typer calls it so
    _fails_as_json.set(value)
    context.call_on_close(lambda: _fails_as_json.set(False))
    return value


JSON = "--json"
Json = Annotated[
    bool, typer.Option(JSON, callback=_note_json, help="Print JSON; what goes wrong too, on standard error.")
]
USAGE = 2
"""The exit code of a command that was used wrongly, or cannot do what it was asked."""
WRONG_USE = "USAGE"
FILE = "FILE"
NOT_CONFIRMED = "NOT_CONFIRMED"


class CommandError(Exception):
    """A command cannot do what it was asked; the message is the one line that its user reads.

    Args:
        sentence: The line.
        reason: What programs read, where no error that led to this one says it.
    """

    def __init__(self, sentence: str, reason: str = WRONG_USE) -> None:
        super().__init__(sentence)
        self.reason = reason


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
    if _fails_as_json.get():
        raise CommandError(f"{otherwise}: a program is not asked ({JSON}; --yes agrees beforehand)", NOT_CONFIRMED)
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort as error:
        raise CommandError(f"{otherwise}: nobody agreed (--yes does not ask)", NOT_CONFIRMED) from error
    if not agreed:
        raise CommandError(otherwise, NOT_CONFIRMED)


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
    """End the command with one line on standard error: a sentence or, with ``--json``, an object."""
    typer.echo(failure_as_json(error) if _fails_as_json.get() else str(error), err=True)
    raise typer.Exit(code) from error


def failure_as_json(error: Exception) -> str:
    """Return a failure as ``keypost --json`` prints one."""
    facts = error.metadata if isinstance(error, KeypostError) else {}
    failure = {"event": "error", "reason": _reason_of(error), "sentence": str(error), "hint": None, "facts": facts}
    return json.dumps(failure, ensure_ascii=False)


def _reason_of(error: Exception) -> str:
    """Return the reason of a failure; where a command only says what another error was, that one's."""
    cause = error.__cause__ if isinstance(error, CommandError) else error
    # By its kind: some errors of Python have a reason too, which is a sentence.
    if isinstance(cause, KeypostError | AuditBrokenError):
        return cause.reason
    if isinstance(cause, OSError):
        return FILE
    return error.reason if isinstance(error, CommandError) else WRONG_USE
