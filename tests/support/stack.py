"""The whole stack for tests: the embedded one, and the command line against it.

::

    with running_stack(tmp_path) as stack:
        done = keypost(stack, tmp_path / "alice", "enroll", "alice")
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from keypost_services.embedded import stack as stack_module
from keypost_services.embedded.layout import EMBEDDED, Layout, settings_of
from keypost_services.embedded.processes import clean_environment
from keypost_services.embedded.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from keypost_services.embedded.layout import Shape

COMMAND_SECONDS = 60


@contextlib.contextmanager
def running_stack(folder: Path, *, weak_suite: bool = False, shape: Shape = EMBEDDED) -> Iterator[Stack]:
    """Yield a stack that serves; afterwards nothing of it is left, and nothing had to be killed."""
    stack = Stack(Layout(folder, weak_suite=weak_suite, shape=shape))
    stack.start()
    try:
        yield stack
    finally:
        killed = stack.stop()
    assert not killed


@contextlib.contextmanager
def more_settings(of: Callable[[str], Mapping[str, str]]) -> Iterator[None]:
    """Have the services of stacks that are started meanwhile told more settings: by service, without its prefix."""

    def settings(layout: Any, service: str, ports: Any, redis_url: str, **where: Any) -> dict[str, str]:
        named = {f"KEYPOST_{service.upper()}_{name}": value for name, value in of(service).items()}
        return settings_of(layout, service, ports, redis_url, **where) | named

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack_module, "settings_of", settings)
        yield


def keypost(
    stack: Stack,
    profile: Path,
    *arguments: str,
    options: tuple[str, ...] = (),
    variables: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a process of its own; ``options`` go before the command."""
    command = [sys.executable, "-m", "keypost.cli", "--profile", str(profile), "--bundle", str(stack.layout.bundle)]
    return subprocess.run(
        [*command, *options, *arguments],
        env=clean_environment({"KEYPOST_PASSPHRASE": "secret"} if variables is None else variables),
        input=stdin or b"",
        capture_output=True,
        check=False,
        timeout=COMMAND_SECONDS,
    )


def json_lines(output: bytes) -> list[dict[str, Any]]:
    """Return the objects, one a line."""
    return [json.loads(line) for line in output.splitlines()]
