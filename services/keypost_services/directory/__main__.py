"""``keypost-directory``: the key directory's command; says what to install where its parts are missing."""

from __future__ import annotations

from keypost.programs import end_on_sigterm, needs_extra

DESCRIPTION = "The key directory of Keypost: fast look-ups of records that the CA signed."


def main() -> None:
    """Run the command that the arguments name."""
    end_on_sigterm()
    with needs_extra("keypost-directory", "services"):
        # Its libraries may be missing.
        from keypost_services.directory.compose import compose  # noqa: PLC0415
        from keypost_services.directory.settings import DirectorySettings  # noqa: PLC0415
        from keypost_services.runtime.process import service_app  # noqa: PLC0415
    service_app("directory", DESCRIPTION, DirectorySettings, compose)()


if __name__ == "__main__":
    main()
