"""The commands of ``keypost`` about files on their way out."""

from __future__ import annotations

from typing import Annotated

import typer

from keypost.cli import file_commands as commands
from keypost.cli.perform import Action, perform

files_app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:  keypost files
           keypost files resume
           keypost files cancel 3f2a
""",
)


def _perform(context: typer.Context, action: Action) -> None:
    raise typer.Exit(perform(context.obj, action))


@files_app.callback()
def files(context: typer.Context) -> None:
    """Show the files that are on their way, or go on with them or cancel one."""
    if context.invoked_subcommand is None:
        _perform(context, commands.list_files())


@files_app.command()
def resume(
    context: typer.Context,
    file: Annotated[str | None, typer.Argument(help="Its file_id, or how it begins; without it, all.")] = None,
) -> None:
    """Go on with files where they broke off."""
    _perform(context, commands.resume(file))


@files_app.command()
def cancel(context: typer.Context, file: Annotated[str, typer.Argument(help="Its file_id, or how it begins.")]) -> None:
    """Send no more of FILE. What went out of it comes to nothing."""
    _perform(context, commands.cancel(file))


def add_to(app: typer.Typer) -> None:
    """Add these commands to ``keypost``."""
    app.add_typer(files_app, name="files")
