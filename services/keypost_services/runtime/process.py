"""A service as a process: signals, exit codes, the command line."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import typer

from keypost_services.runtime.config import describe_settings, load_settings
from keypost_services.runtime.errors import StartError
from keypost_services.runtime.logs import make_logger, route_standard_logging
from keypost_services.runtime.serving import SettingsT, running

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    from keypost_services.runtime.serving import Compose

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
    return 0 if serving.cancelled() else serving.result()


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


def service_app(
    name: str,
    description: str,
    settings_cls: type[SettingsT],
    compose: Compose[SettingsT],
    extra_commands: Mapping[str, Callable[..., Any]] | None = None,
) -> typer.Typer:
    """Return the command line of a service: without a command it serves.

    Args:
        name: The service's name, such as ``directory``.
        description: What it does, in a sentence.
        settings_cls: Its settings, documented in ``--help``.
        compose: Puts it together.
        extra_commands: Further commands by name; their docstrings are their help.
    """
    settings_help = f"Settings (environment):\n\n\b\n{describe_settings(settings_cls)}"
    app = typer.Typer(
        name=f"keypost-{name}", add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )

    @app.callback(invoke_without_command=True, help=description, epilog=settings_help)
    def serve(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            raise typer.Exit(run_service(name, load_settings(settings_cls), compose))

    for command, function in (extra_commands or {}).items():
        app.command(command)(function)
    return app


def service_main(
    name: str,
    description: str,
    settings_cls: type[SettingsT],
    compose: Compose[SettingsT],
    *,
    extra_commands: Mapping[str, Callable[..., Any]] | None = None,
) -> None:
    """Be the command of a service (see :func:`service_app`); ends the process."""
    service_app(name, description, settings_cls, compose, extra_commands)()
