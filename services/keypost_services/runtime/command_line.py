"""A service's command line: loads what serves only when ``serve`` runs, which the other commands do without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from keypost.programs import imports_to_keep
from keypost.programs.version import Version  # noqa: TC001  # typer reads the annotation

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost_services.runtime.config import ServiceSettings, SettingsT
    from keypost_services.runtime.serving import Compose


def service_app(
    name: str, description: str, settings: Callable[[], type[SettingsT]], compose: Callable[[], Compose[SettingsT]]
) -> typer.Typer:
    """Return the command line of a service, with its command ``serve``; a service may hang others on it.

    Args:
        name: The service's name, such as ``directory``.
        description: What it does, in a sentence.
        settings: Imports its settings, documented in ``serve --help``.
        compose: Imports what puts it together.
    """
    app = typer.Typer(
        name=f"keypost-{name}",
        help=description,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )

    # With a callback the command keeps its name, even where it is the only one.
    @app.callback()
    def options(*, version: Version = False) -> None:
        pass

    @app.command(help="Serve until SIGTERM.", cls=_telling(settings))
    def serve() -> None:
        with imports_to_keep():
            from keypost_services.runtime.config import load_settings  # noqa: PLC0415  # no other command needs them
            from keypost_services.runtime.process import run_service  # noqa: PLC0415

            kind = settings()
        loaded = load_settings(kind)  # a wrong setting is told before all else is imported
        with imports_to_keep():
            composed = compose()
        raise typer.Exit(run_service(name, loaded, composed))

    return app


def _telling(settings: Callable[[], type[ServiceSettings]]) -> type[TyperCommand]:
    """Return a kind of command whose help tells the settings; they are imported when somebody asks for it."""

    class Telling(TyperCommand):
        def format_epilog(self, ctx: Any, formatter: Any) -> None:
            from keypost_services.runtime.config import describe_settings  # noqa: PLC0415  # this help alone needs it

            self.epilog = f"\b\nSettings, by environment:\n{describe_settings(settings())}"
            super().format_epilog(ctx, formatter)

    return Telling
