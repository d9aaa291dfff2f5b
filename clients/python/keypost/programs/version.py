"""The option ``--version``, the same for every program of Keypost."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer


def _show(context: typer.Context, value: bool) -> None:  # noqa: FBT001  # typer calls it so
    if value and not context.resilient_parsing:
        typer.echo(f"{context.command.name or 'keypost'} {version('keypost')}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_show, is_eager=True, help="Show the version and exit.")]
