"""The commands of the embedded stack, as they are typed."""

from __future__ import annotations

import enum
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from keypost.cli.suites import SuiteName
from keypost.programs.version import Version  # noqa: TC001  # typer reads the annotation
from keypost_services.embedded.layout import SHAPES
from keypost_services.embedded.perform import perform_story
from keypost_services.embedded.up import default_folder, serve

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    name="keypost-embedded",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


Suite = Annotated[SuiteName, typer.Option(help="RSA1024_AES128: the source document's, broken in practice.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output, nothing else.")]


class StackName(enum.StrEnum):
    """The shapes of a stack, by name."""

    EMBEDDED = "embedded"
    POSTGRES = "postgres"
    CLUSTER = "cluster"


StackOption = Annotated[
    StackName,
    typer.Option(
        "--stack",
        help="What the data are kept in. embedded: SQLite and Valkey. postgres: PostgreSQL and Valkey. cluster: "
        "PostgreSQL and a Valkey Cluster. The larger two have two processes each of CA and delivery.",
    ),
]


@app.callback()
def options(*, version: Version = False) -> None:
    """Run all of Keypost on this machine: its servers and the three services, on loopback, with TLS."""


@app.command()
def story(
    *, json: Json = False, suite: Suite = SuiteName.RSA3072_AES256, stack: StackOption = StackName.EMBEDDED
) -> None:
    """Play the main job before your eyes.

    Starts the stack, lets Alice and Bob talk, stops. Exit code 0: every check holds.
    """
    raise typer.Exit(perform_story(suite.value, SHAPES[stack], as_json=json))


@app.command()
def up(
    *,
    json: Json = False,
    suite: Suite = SuiteName.RSA3072_AES256,
    stack: StackOption = StackName.EMBEDDED,
    data: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Where everything lies; kept when it stops. By default .keypost."),
    ] = None,
) -> None:
    """Start the stack and leave it running.

    Says what to type in another terminal, and goes on until Ctrl-C.
    """
    shape = SHAPES[stack]
    raise typer.Exit(serve(data or default_folder(suite.value, shape), suite.value, shape, as_json=json))


def run(arguments: Sequence[str]) -> int:
    """Run ``keypost-embedded``; return its exit code."""
    try:
        app(list(arguments), prog_name="keypost-embedded")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
