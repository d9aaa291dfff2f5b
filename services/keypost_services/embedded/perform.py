"""``keypost-embedded story``: the stack in a new folder, the story in it, then nothing is left of either."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keypost.errors import KeypostError
from keypost.protocol.suites import WEAK
from keypost_services.embedded.ca_log import CaLog
from keypost_services.embedded.layout import Layout
from keypost_services.embedded.processes import StackFailedError
from keypost_services.embedded.signals import stop_signals_ignored, stop_signals_interrupt
from keypost_services.embedded.stack import Stack
from keypost_services.embedded.story import Notebook, Scene, Story, summary
from keypost_services.embedded.tellers import HumanTeller, JsonTeller, Teller

if TYPE_CHECKING:
    from keypost_services.embedded.layout import Shape
    from keypost_services.embedded.people import Event

INTERRUPTED = 130


def perform_story(suite: str, shape: Shape, *, as_json: bool) -> int:
    """Play the story.

    Args:
        suite: The suite of all keys.
        shape: What the stack keeps its data in.
        as_json: One JSON object a line instead of text for people.

    Returns:
        The exit code: 0 if every check holds, 1 if not, 130 if interrupted.
    """
    begun = time.monotonic()
    if not as_json:
        print(f"starting the {shape.name} stack …", file=sys.stderr)  # noqa: T201  # it takes seconds
    teller: Teller = JsonTeller() if as_json else HumanTeller()
    folder = Path(tempfile.mkdtemp(prefix="keypost-"))
    stack = Stack(Layout(folder, weak_suite=suite == WEAK.name, shape=shape))
    notebook = Notebook(teller.tell, CaLog(stack.layout.log("ca"), lambda: stack.pid_of("ca")))
    failure: str | None = None
    try:
        with stop_signals_interrupt():
            failure = _play(stack, suite, notebook)
    except KeyboardInterrupt:
        failure = "interrupted"
    teller.close()
    closing = summary(notebook, failure) | {"seconds": round(time.monotonic() - begun, 3)}
    if closing["ok"] or failure == "interrupted":
        stack.remove()
    else:
        closing["folder"] = str(folder)
    teller.tell(closing)
    return INTERRUPTED if failure == "interrupted" else int(not closing["ok"])


def _play(stack: Stack, suite: str, notebook: Notebook) -> str | None:
    """Start, play, stop; return what failed."""
    try:
        stack.start()
        notebook.tell(_start_event(stack, suite))
        people = stack.layout.folder / "people"
        people.mkdir()
        story = Story(Scene(stack.layout.bundles, suite, people), notebook)
        asyncio.run(_play_or_die(story, stack))
    except KeypostError as error:
        return str(error)
    finally:
        with stop_signals_ignored():
            killed = stack.stop()
    return f"had to be killed: {', '.join(killed)}" if killed else None


async def _play_or_die(story: Story, stack: Stack) -> None:
    """Play the story; end it if a part of the stack dies.

    Raises:
        StackFailedError: a part died.
        PersonFailed: a person of the story failed.
    """
    loop = asyncio.get_running_loop()
    died: asyncio.Future[str] = loop.create_future()
    stack.call_on_death(lambda obituary: _tell_loop(loop, died, obituary))
    playing = asyncio.create_task(story.play())
    try:
        both: set[asyncio.Future[Any]] = {playing, died}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            raise StackFailedError(died.result())
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
    playing.result()


def _tell_loop(loop: asyncio.AbstractEventLoop, died: asyncio.Future[str], obituary: str) -> None:
    """Hand an obituary to the event loop, unless that has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(lambda: None if died.done() else died.set_result(obituary))


def _start_event(stack: Stack, suite: str) -> Event:
    services = [{"name": part.name, "process": part.pid, "serves": part.serves} for part in stack.parts]
    folder = str(stack.layout.folder)
    about = {"realm": stack.layout.realm, "suite": suite, "stack": stack.layout.shape.name, "folder": folder}
    return {"event": "start", **about, "services": services}
