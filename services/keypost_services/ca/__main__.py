"""``keypost-ca``: the Certificate Authority's commands; says what to install where its parts are missing."""

from __future__ import annotations

import sys

from keypost.programs import end_on_sigterm, imports_to_keep, needs_extra


def main() -> None:
    """Run the command that the arguments name."""
    end_on_sigterm()
    with needs_extra("keypost-ca", "services"):
        with imports_to_keep():
            from keypost_services.ca.command_line import run  # noqa: PLC0415  # its libraries may be missing

        sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
