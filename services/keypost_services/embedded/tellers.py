"""How the story is told: to people in colour, or as one JSON object a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import IO, Any, Protocol

from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from keypost.cli.steps import facts_for_people, short_actor
from keypost.cli.text import harmless, size_of
from keypost.protocol.suites import WEAK

PIPED_WIDTH = 110
WIDEST = 120
COLUMNS: tuple[tuple[int, JustifyMethod], ...] = ((5, "right"), (0, "left"), (10, "left"), (7, "right"), (12, "right"))
"""Widths (0: what is left) and justification: step, title, actor, process, time."""
REST = sum(width for width, _ in COLUMNS) + len(COLUMNS) - 1
LIST_NAMES = {"negotiation": "Key negotiation", "renewal": "CA key info renewal"}

Event = Mapping[str, Any]


class Teller(Protocol):
    """Tells the story."""

    def tell(self, event: Event) -> None:
        """Tell one event."""

    def close(self) -> None:
        """End what is still on display."""


class JsonTeller:
    """One JSON object a line, nothing else."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stdout

    def tell(self, event: Event) -> None:
        """Write the event."""
        self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is on display."""


class HumanTeller:
    """For people: chapters with headings, steps aligned and numbered as in the source document, a table at the end.

    Args:
        console: Where to; by default standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or _console()
        self._list = ""
        self._quiet = False
        self._unseen = 0
        self._progress: Progress | None = None
        self._bar: TaskID | None = None
        self._ways: Mapping[str, Callable[[Event], None]] = {
            "start": self._start,
            "chapter": self._chapter,
            "presence": self._presence,
            "step": self._step,
            "message": self._message,
            "rsa_operations": self._operations,
            "file_progress": self._file_progress,
            "summary": self._summary,
        }

    def tell(self, event: Event) -> None:
        """Show the event."""
        if event["event"] not in {"file_progress", "step"}:
            self.close()
        self._ways[event["event"]](event)

    def close(self) -> None:
        """End the progress bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _start(self, event: Event) -> None:
        self._console.print()
        self._console.print(Text("Keypost: two people exchange sealed messages through three services", style="bold"))
        self._console.print(
            Text(
                f"realm {event['realm']} · suite {event['suite']} · stack {event['stack']} · data in {event['folder']}",
                style="dim",
            )
        )
        if event["suite"] == WEAK.name:
            warning = "The source document's suite to the letter: broken in practice, for conformance only."
            self._console.print(Text(warning, style="yellow"))
        table = Table.grid(padding=(0, 3))
        for service in event["services"]:
            table.add_row(f"  {service['name']}", f"process {service['process']}", service["serves"])
        self._console.print(table)

    def _chapter(self, event: Event) -> None:
        self._list = ""
        self._quiet, self._unseen = event["file"], 0
        self._console.print()
        self._console.print(
            Rule(Text(f"{event['chapter']}  {event['title']}", style="bold cyan"), align="left", style="cyan")
        )

    def _presence(self, event: Event) -> None:
        state = (
            f"online, process {event['process']}"
            if event["online"]
            else f"offline: process {event['process']} has ended"
        )
        self._console.print(Text(f"  {event['actor']} is {state}", style="green" if event["online"] else "yellow"))

    def _step(self, event: Event) -> None:
        if self._quiet:
            self._unseen += 1
            return
        if event["list"] != self._list:
            self._list = event["list"]
            self._console.print(Text(f"  {LIST_NAMES[self._list]}", style="bold"))
        table = Table.grid(padding=(0, 1))
        for width, justify in COLUMNS:
            table.add_column(width=width or self._console.width - REST, justify=justify)
        who = Text(short_actor(event["actor"]), style="cyan")
        table.add_row(Text(str(event["step"]), style="bold"), Text(event["title"]), who, *_process_and_time(event))
        self._console.print(table)
        if event["facts"]:
            facts = Text(harmless(facts_for_people(event["facts"])), style="dim")
            self._print_indented(facts, 6)

    def _print_indented(self, text: Text, columns: int) -> None:
        """Print a line, wrapped if this is a terminal; what is piped is for a pager or grep, and stays whole."""
        if self._console.is_terminal:
            self._console.print(Padding(text, (0, 0, 0, columns)))
        else:
            self._console.print(Text(" " * columns) + text, soft_wrap=True)

    def _message(self, event: Event) -> None:
        if "file" in event:
            self._file(event)
            return
        line = Text(f"  {event['actor']} reads: ", style="green").append(f"“{harmless(event['text'])}”", style="bold")
        self._console.print(line)

    def _file(self, event: Event) -> None:
        file = event["file"]
        what = f"  {event['actor']} has {harmless(file['name'])}, {size_of(file['size'])}, SHA-256 "
        line = Text(what, style="green").append(file["sha256_of_saved"], style="bold")
        self._console.print(line, soft_wrap=True)
        self._console.print(Text(f"  (in parts, each a sealed message: {self._unseen} steps as above)", style="dim"))

    def _operations(self, event: Event) -> None:
        kinds = ", ".join(f"{kind} {count}" for kind, count in event["by_kind"].items())
        count = f"{event['total']} RSA operations ({kinds})" if event["total"] else "0 RSA operations"
        verb = "to send" if event["what"] == "send" else "to receive"
        self._console.print(
            Text(f"  {event['actor']} needed {count} {verb}", style="dim" if event["total"] else "bold")
        )

    def _file_progress(self, event: Event) -> None:
        if not self._console.is_terminal:
            if event["done"] == event["total"]:
                self._console.print(f"  sent {size_of(event['done'])}")
            return
        if self._progress is None:
            bar = (
                TextColumn("  sending"),
                BarColumn(bar_width=40),
                DownloadColumn(binary_units=True),
                TransferSpeedColumn(),
            )
            self._progress = Progress(*bar, console=self._console)
            self._bar = self._progress.add_task("", total=event["total"])
            self._progress.start()
        if self._bar is not None:
            self._progress.update(self._bar, completed=event["done"])

    def _summary(self, event: Event) -> None:
        self._console.print()
        self._console.print(Rule(Text("What was shown", style="bold"), align="left"))
        self._console.print(Padding(_summary_table(event), (0, 0, 0, 1)))
        if event["failure"]:
            self._console.print(Text(harmless(event["failure"]), style="red"))
        failed = sum(not check["ok"] for check in event["checks"])
        if event["ok"]:
            self._console.print(
                Text(f"All {len(event['checks'])} checks hold. {event['seconds']:.1f} s.", style="bold green")
            )
        else:
            self._console.print(
                Text(f"It does not work: {failed} of {len(event['checks'])} checks failed.", style="bold red")
            )


def _summary_table(event: Event) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title, justify in (("", "right"), ("what", "left"), ("", "left"), ("seen", "left"), ("time", "right")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]  # a literal in a tuple
    for chapter in event["chapters"]:
        time = f"{chapter['seconds']:.2f} s"
        table.add_row(str(chapter["chapter"]), Text(chapter["title"], style="bold"), "", "", time)
        for check in event["checks"]:
            if check["chapter"] == chapter["chapter"]:
                outcome = Text("ok", style="green") if check["ok"] else Text("FAILED", style="bold red")
                table.add_row("", f"  {check['name']}", outcome, Text(check["detail"], style="dim"), "")
    return table


def _process_and_time(event: Event) -> tuple[Text, Text]:
    moment = datetime.fromtimestamp(event["time"] / 1000, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    return Text(str(event["process"]), style="dim"), Text(moment, style="dim")


def _console() -> Console:
    console = Console(highlight=False)
    console.width = min(console.width, WIDEST) if console.is_terminal else PIPED_WIDTH
    return console
