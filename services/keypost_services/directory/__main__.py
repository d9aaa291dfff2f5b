"""``keypost-directory``: the key directory's command."""

from __future__ import annotations

from keypost_services.directory.compose import compose
from keypost_services.directory.settings import DirectorySettings
from keypost_services.runtime.process import service_app

DESCRIPTION = "The key directory of Keypost: fast look-ups of records that the CA signed."
app = service_app("directory", DESCRIPTION, DirectorySettings, compose)


def main() -> None:
    """Run the command that the arguments name."""
    app()


if __name__ == "__main__":
    main()
