"""``keypost-directory``: the key directory's command; says what to install where its parts are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.programs import end_on_sigterm, needs_extra

if TYPE_CHECKING:
    from keypost_services.directory.settings import DirectorySettings
    from keypost_services.runtime.serving import Compose

DESCRIPTION = "The key directory of Keypost: fast look-ups of records that the CA signed."


def main() -> None:
    """Run the command that the arguments name."""
    end_on_sigterm()
    with needs_extra("keypost-directory", "services"):
        from keypost_services.runtime.command_line import service_app  # noqa: PLC0415  # its libraries may be missing

        service_app("directory", DESCRIPTION, _settings, _compose)()


def _settings() -> type[DirectorySettings]:
    from keypost_services.directory.settings import DirectorySettings  # noqa: PLC0415  # `serve` alone needs them

    return DirectorySettings


def _compose() -> Compose[DirectorySettings]:
    from keypost_services.directory.compose import compose  # noqa: PLC0415  # `serve` alone needs it

    return compose


if __name__ == "__main__":
    main()
