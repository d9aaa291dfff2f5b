"""A service as a process: signals and exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

from keypost_services.runtime.errors import StartError
from keypost_services.runtime.logs import make_logger, route_standard_logging
from keypost_services.runtime.serving import SettingsT, running

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from keypost_services.runtime.serving import Compose

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LAST_SECONDS = 1.0
"""How long what is still running after a drain may take to end."""


def run_service(name: str, settings: SettingsT, compose: Compose[SettingsT]) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the process at once.

    Returns:
        0 after a drain; 1 if the service could not start or broke, after one line on standard error.
    """
    route_standard_logging(settings.log_format)
    log = make_logger(name, settings.log_level, settings.log_format)
    try:
        return asyncio.run(_serve(name, settings, compose, log))
    except StartError as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201  # for whoever started it
        return 1


async def _serve(name: str, settings: SettingsT, compose: Compose[SettingsT], log: FilteringBoundLogger) -> int:
    stop = _Stop(log)
    stop.listen()
    serving = asyncio.ensure_future(_until_stopped(name, settings, compose, log, stop))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not stop.serves:
        # Told to stop before it served: there is nothing to drain.
        serving.cancel()
    stopped.cancel()
    await asyncio.wait({serving})
    code = 0 if serving.cancelled() else serving.result()
    await _end_the_rest(log, code)
    return code


async def _end_the_rest(log: FilteringBoundLogger, code: int) -> None:
    """Cancel what is still running, and end the process if that does not end: the loop would wait for it for ever."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    if not rest:
        return
    for task in rest:
        task.cancel()
    _, pending = await asyncio.wait(rest, timeout=LAST_SECONDS)
    if pending:
        log.error("ended with work left behind", tasks=sorted(task.get_name() for task in pending))
        sys.stdout.flush()
        os._exit(code)


async def _until_stopped(
    name: str, settings: SettingsT, compose: Compose[SettingsT], log: FilteringBoundLogger, stop: _Stop
) -> int:
    async with running(name, settings, compose, log=log) as service:
        stop.serves = True
        broken = asyncio.ensure_future(service.server.wait_for_termination())
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait({broken, stopped}, return_when=asyncio.FIRST_COMPLETED)
        code = 0 if stopped.done() else 1
        stopped.cancel()
        log.info("stopping") if code == 0 else log.error("broken")
    await asyncio.gather(broken, stopped, return_exceptions=True)
    log.info("stopped")
    return code


class _Stop:
    """Turns signals into an event; the second one ends the process."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._event = asyncio.Event()
        self.serves = False

    def listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)

    async def wait(self) -> None:
        await self._event.wait()

    def _on_signal(self, number: int) -> None:
        if self._event.is_set():
            self._log.warning("stopped at once", signal=number)
            sys.stdout.flush()
            os._exit(128 + number)
        self._event.set()
