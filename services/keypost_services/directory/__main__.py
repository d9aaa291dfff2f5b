"""``keypost-directory``: serves look-ups until SIGTERM."""

from __future__ import annotations

from keypost_services.directory.compose import compose
from keypost_services.directory.settings import DirectorySettings
from keypost_services.runtime.process import service_main


def main() -> None:
    """Be the command ``keypost-directory``."""
    service_main(
        "directory",
        "The key directory of Keypost: fast look-ups of records that the CA signed.",
        DirectorySettings,
        compose,
    )


if __name__ == "__main__":
    main()
