"""What the command line says: to people, or as one JSON object a line."""

from __future__ import annotations

import base64
import json
import sys
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.text import Text

from keypost.cli.qr import qr_code, width_of
from keypost.cli.steps import SHORT, step_as_json, step_as_text
from keypost.cli.text import harmless, size_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keypost.client import Received
    from keypost.protocol.steps import Step


class Output(Protocol):
    """Says what happened.

    Attributes:
        is_for_people: Whether a person reads it, who can be asked.
    """

    is_for_people: bool

    def result(self, event: str, sentence: str, /, **facts: Any) -> None:
        """Say that a command is done."""

    def message(self, message: Received) -> None:
        """Show a message that arrived."""

    def table(self, event: str, title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Show rows; each row has a value for every column."""

    def qr(self, text: str) -> None:
        """Show a QR code, where it can be scanned from."""

    def handover(self, event: str, sentence: str, text: str, /, **facts: Any) -> None:
        """Show a text that a person carries to another device; the facts have it too."""

    def step(self, step: Step) -> None:
        """Show a step of the source document."""

    def progress(self, name: str, done: int, total: int) -> None:
        """Show how far a file is."""

    def notice(self, kind: str, reason: str, sentence: str) -> None:
        """Say what no command asked for: a message that waits or was set aside, a suspicion."""

    def error(self, reason: str, sentence: str, hint: str | None, facts: Mapping[str, str]) -> None:
        """Say what went wrong, and what to do."""

    def close(self) -> None:
        """End what is still on display."""


class JsonOutput:
    """One JSON object a line on standard output, errors too; nothing else."""

    is_for_people = False

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stdout

    def _write(self, event: str, facts: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps({"event": event, **facts}, ensure_ascii=False) + "\n")
        self._stream.flush()

    def result(self, event: str, sentence: str, /, **facts: Any) -> None:
        """Write the facts; the sentence is for people."""
        del sentence
        self._write(event, facts)

    def message(self, message: Received) -> None:
        """Write the message; its body as text if it is text, else as base64."""
        self._write("message", message_as_json(message))

    def table(self, event: str, title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one object with all rows."""
        del title, columns
        self._write(event, {"rows": [dict(row) for row in rows]})

    def qr(self, text: str) -> None:
        """Write nothing: the event that belongs to it has the text."""

    def handover(self, event: str, sentence: str, text: str, /, **facts: Any) -> None:
        """Write the facts."""
        del sentence, text
        self._write(event, facts)

    def step(self, step: Step) -> None:
        """Write the step."""
        self._write("step", step_as_json(step))

    def progress(self, name: str, done: int, total: int) -> None:
        """Write how far a file is."""
        self._write("file_progress", {"name": name, "done": done, "total": total})

    def notice(self, kind: str, reason: str, sentence: str) -> None:
        """Write the notice."""
        self._write("notice", {"kind": kind, "reason": reason, "sentence": sentence})

    def error(self, reason: str, sentence: str, hint: str | None, facts: Mapping[str, str]) -> None:
        """Write the error."""
        self._write("error", {"reason": reason, "sentence": sentence, "hint": hint, "facts": dict(facts)})

    def close(self) -> None:
        """Nothing is on display."""


class HumanOutput:
    """For people: messages and results on standard output; steps, progress and errors on standard error."""

    is_for_people = True

    def __init__(self) -> None:
        self._out = Console(highlight=False, markup=False, soft_wrap=True)
        self._err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def result(self, event: str, sentence: str, /, **facts: Any) -> None:
        """Print the sentence."""
        del event, facts
        self._out.print(sentence)

    def message(self, message: Received) -> None:
        """Print the message, harmless for a terminal, with what a reader must know about it."""
        head = Text(f"[{_clock_time(message.send_time)}] ", style="dim")
        head.append(str(message.sender), style="bold cyan")
        if message.verified:
            head.append(" ✓", style="green")
        if message.copy_to is not None:
            head.append(f" → {message.copy_to}", style="cyan")
        head.append(": ").append(body_for_people(message))
        self._out.print(head)
        for warning in warnings_about(message):
            self._err.print(Text(f"    {warning}", style="yellow"))

    def table(self, event: str, title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Print a table; plain, tab-separated lines when piped."""
        del event
        # Not what rich takes for a terminal: FORCE_COLOR asks for colours, not for frames in a pipe.
        if not self._out.file.isatty():
            for cells in _cells(columns, rows):
                # Past rich, which would replace the tabs.
                self._out.file.write("\t".join(cells) + "\n")
            self._out.file.flush()
            return
        self._out.print(Text(title, style="bold"))
        lines = [[column.replace("_", " ") for column in columns], *_cells(columns, rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for number, line in enumerate(lines):
            # Not rich's table, which folds an address inside the word where the terminal is narrow.
            padded = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            self._out.print(Text(padded.rstrip(), style="default" if number else "dim"))

    def qr(self, text: str) -> None:
        """Draw the code on a terminal that is wide enough; nothing when piped."""
        if not self._out.file.isatty():
            return
        columns = width_of(text)
        if columns > self._out.width:
            self._err.print(Text(f"(a terminal of {columns} columns would show a QR code too)", style="dim"))
            return
        # Past rich, which might take the colours that make it black on white.
        self._out.file.write(qr_code(text))
        self._out.file.flush()

    def handover(self, event: str, sentence: str, text: str, /, **facts: Any) -> None:
        """Print the text alone on standard output, for a pipe as for the eye; the sentence stands beside it."""
        del event, facts
        self._err.print(sentence)
        self.qr(text)
        self._out.print(text)

    def step(self, step: Step) -> None:
        """Print the step."""
        self._err.print(step_as_text(step))

    def progress(self, name: str, done: int, total: int) -> None:
        """Move the bar of the file; no bar when piped."""
        if not self._err.file.isatty():
            return
        if self._progress is None:
            size, speed = DownloadColumn(binary_units=True), TransferSpeedColumn()
            self._progress = Progress(TextColumn("{task.description}"), BarColumn(), size, speed, console=self._err)
            self._progress.start()
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(harmless(name), total=total)
        self._progress.update(self._tasks[name], completed=done)

    def notice(self, kind: str, reason: str, sentence: str) -> None:
        """Print the notice."""
        del kind
        self._err.print(Text(f"note: {harmless(sentence)} ({reason})", style="yellow"))

    def error(self, reason: str, sentence: str, hint: str | None, facts: Mapping[str, str]) -> None:
        """Print the sentence, its reason and the hint."""
        del facts
        self.close()
        line = Text("keypost: ", style="bold red").append(harmless(sentence))
        if reason not in sentence:
            line.append(f" ({reason})", style="dim")
        self._err.print(line)
        if hint:
            self._err.print(f"         {harmless(hint)}")

    def close(self) -> None:
        """End the progress bars."""
        if self._progress is not None:
            self._progress.stop()
            self._progress, self._tasks = None, {}


def _cells(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [[_cell(column, row[column]) for column in columns] for row in rows]


def _cell(column: str, value: Any) -> str:
    """Return a value for people; none has a space in it, so that awk finds the columns of a piped table."""
    if isinstance(value, bool):
        return "yes" if value else "-"
    if column.endswith("_time"):
        return datetime.fromtimestamp(value / 1000, UTC).strftime("%Y-%m-%dT%H:%MZ")
    return str(value)[:SHORT] if column == "fingerprint" else str(value)


def _clock_time(time: int) -> str:
    return datetime.fromtimestamp(time / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def is_text(message: Received) -> bool:
    """Return whether the message says that it is text, and is."""
    if not message.media_type.startswith("text/"):
        return False
    try:
        message.body.decode()
    except UnicodeDecodeError:
        return False
    return True


def body_for_people(message: Received) -> str:
    """Return the text of the message, or a description of what is no text."""
    if message.file is not None:
        return f"(file {harmless(message.file.name)}, {size_of(message.file.size)})"
    if is_text(message):
        return harmless(message.body.decode())
    return f"({harmless(message.media_type)}, {size_of(len(message.body))}; --json shows it)"


def warnings_about(message: Received) -> list[str]:
    """Return what the reader of the message must know about it."""
    warnings = []
    if message.redelivered:
        warnings.append("this message was handed out before")
    if message.missed:
        warnings.append(f"{message.missed} earlier message(s) of this sender did not arrive")
    return warnings


def message_as_json(message: Received) -> dict[str, Any]:
    """Return the message as one JSON object."""
    fields: dict[str, Any] = {
        "sender": str(message.sender),
        "message_id": str(message.message_id),
        "counter": message.counter,
        "send_time": message.send_time,
        "accept_time": message.accept_time,
        "key_id": message.key_id.hex(),
        "media_type": message.media_type,
        "redelivered": message.redelivered,
        "missed": message.missed,
        "verified": message.verified,
        "copy_to": message.copy_to,
    }
    if message.file is not None:
        file = {"name": message.file.name, "size": message.file.size, "sha256": message.file.sha256.hex()}
        return fields | {"file": file}
    if is_text(message):
        return fields | {"text": message.body.decode()}
    return fields | {"body_base64": base64.b64encode(message.body).decode()}
