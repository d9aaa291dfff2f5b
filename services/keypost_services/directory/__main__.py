"""``keypost-directory``: serves look-ups until SIGTERM."""

from __future__ import annotations

import typer

from keypost_services.directory.compose import compose
from keypost_services.directory.settings import DirectorySettings
from keypost_services.runtime.config import load_settings
from keypost_services.runtime.process import run_service, service_main

NAME = "directory"


def serve() -> None:
    """Serve until SIGTERM, as without a command."""
    raise typer.Exit(run_service(NAME, load_settings(DirectorySettings), compose))


def main() -> None:
    """Be the command ``keypost-directory``."""
    service_main(
        NAME,
        "The key directory of Keypost: fast look-ups of records that the CA signed.",
        DirectorySettings,
        compose,
        extra_commands={"serve": serve},
    )


if __name__ == "__main__":
    main()
