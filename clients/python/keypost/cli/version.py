"""The option ``--version``, the same for every program of Keypost."""

from __future__ import annotations

from typing import Annotated

import typer

from keypost.programs import version_line


def _show(context: typer.Context, value: bool) -> None:  # noqa: FBT001  # typer calls it so
    if value and not context.resilient_parsing:
        typer.echo(version_line(context.command.name or "keypost"))
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_show, is_eager=True, help="Show the version and exit.")]
