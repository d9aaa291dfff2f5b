"""``keypost-embedded up``: the stack until Ctrl-C, and what to type meanwhile."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from keypost.errors import KeypostError
from keypost.protocol.suites import WEAK
from keypost_services.embedded.layout import EMBEDDED, Layout
from keypost_services.embedded.signals import stop_signals_ignored, stop_signals_interrupt
from keypost_services.embedded.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost_services.embedded.layout import Shape

PASSPHRASE = "secret"  # noqa: S105  # an example


def default_folder(suite: str, shape: Shape) -> Path:
    """Return where a stack lies in the current folder; one of another shape, or with the weak suite, lies apart."""
    apart = [shape.name] * (shape != EMBEDDED) + [suite] * (suite == WEAK.name)
    return Path(".keypost", *apart)


def serve(folder: Path, suite: str, shape: Shape, *, as_json: bool) -> int:
    """Start the stack in ``folder`` and keep it until it is asked to stop.

    Args:
        folder: Where everything lies; what is there already is used again.
        suite: Which suite the commands that are shown use.
        shape: What the data are kept in.
        as_json: One JSON object instead of text for people.

    Returns:
        The exit code: 0 after Ctrl-C or SIGTERM, 1 if a part did not start, died or had to be killed.
    """
    stack = Stack(Layout(folder.resolve(), weak_suite=suite == WEAK.name, shape=shape))
    failure = ""
    try:
        with stop_signals_interrupt():
            _run(stack, suite, as_json=as_json)
    except KeyboardInterrupt:
        pass
    except KeypostError as error:
        failure = str(error)
    with stop_signals_ignored():
        killed = stack.stop()
    if killed and not failure:
        failure = f"had to be killed: {', '.join(killed)}"
    if failure:
        print(failure, file=sys.stderr)  # noqa: T201  # the last word
    return int(bool(failure))


def _run(stack: Stack, suite: str, *, as_json: bool) -> None:
    if not as_json:
        Console(stderr=True).print(f"starting Keypost in {stack.layout.folder} …", style="dim", soft_wrap=True)
    stack.start()
    commands = [environment_to_type(stack.layout, suite), *commands_to_type(stack.layout, suite)]
    (_tell_json if as_json else _tell)(stack, commands)
    stack.wait()


def environment_to_type(layout: Layout, suite: str) -> str:
    """Return the command that prepares another terminal for those of :func:`commands_to_type`."""
    variables = {"KEYPOST_BUNDLE": str(layout.bundle), "KEYPOST_PASSPHRASE": PASSPHRASE}
    if suite == WEAK.name:
        variables["KEYPOST_MINIMUM_SUITE"] = suite
    path = f'PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
    return " ".join(["export", path, *(f"{name}={shlex.quote(value)}" for name, value in variables.items())])


def commands_to_type(layout: Layout, suite: str) -> list[str]:
    """Return commands that can be typed as they are, in this order, in a terminal that is prepared."""
    enroll = f"enroll --suite {suite}" if suite == WEAK.name else "enroll"
    alice, bob = (
        f"keypost --profile {shlex.quote(str(layout.folder / 'profiles' / name))}" for name in ("alice", "bob")
    )
    return [
        f"{alice} {enroll} alice",
        f"{bob} {enroll} bob",
        f"{alice} --steps send bob 'Hello Bob'",
        f"{bob} --steps receive",
    ]


def _tell(stack: Stack, commands: Sequence[str]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text("Keypost is up.", style="bold green"))
    for part in stack.parts:
        console.print(Text(f"  {part.name:<12} process {part.pid:<8} {part.serves}", style="dim"))
    console.print(f"  bundle       {stack.layout.bundle}", style="dim")
    if stack.layout.weak_suite:
        console.print(f"The suite {WEAK.name} is allowed here. It is broken in practice.", style="yellow")
    console.print("\nIn another terminal:\n", style="bold")
    for command in commands:
        console.print(f"  {command}", markup=False)
    console.print("\nCtrl-C ends it; the data stay.")


def _tell_json(stack: Stack, commands: Sequence[str]) -> None:
    parts = [{"name": part.name, "process": part.pid, "serves": part.serves} for part in stack.parts]
    facts = {"event": "up", "bundle": str(stack.layout.bundle), "services": parts, "commands": list(commands)}
    print(json.dumps(facts), flush=True)  # noqa: T201  # for machines
