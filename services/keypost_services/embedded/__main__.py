"""``keypost-embedded``: the whole stack on one machine, for a first look, for development and for tests."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import Annotated

import typer

from keypost.cli.app import SuiteName
from keypost_services.embedded.perform import perform_story
from keypost_services.embedded.up import default_folder, serve

app = typer.Typer(
    name="keypost-embedded",
    help="The whole of Keypost on one machine: Valkey, the three services, everything on loopback with TLS.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


Suite = Annotated[SuiteName, typer.Option(help="RSA1024_AES128: the source document's, broken in practice.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output, nothing else.")]


@app.command()
def story(*, json: Json = False, suite: Suite = SuiteName.RSA3072_AES256) -> None:
    """Start the stack, play the main job before your eyes, stop. Exit code 0: every check holds."""
    raise typer.Exit(perform_story(suite.value, as_json=json))


@app.command()
def up(
    *,
    json: Json = False,
    suite: Suite = SuiteName.RSA3072_AES256,
    data: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Where everything lies; kept when it stops. [default: .keypost]"),
    ] = None,
) -> None:
    """Start the stack, say what to type in another terminal, and go on until Ctrl-C."""
    raise typer.Exit(serve(data or default_folder(suite.value), suite.value, as_json=json))


def main() -> int:
    """Run ``keypost-embedded``; return its exit code."""
    try:
        app(prog_name="keypost-embedded")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
