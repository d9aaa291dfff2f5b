"""Entry of the command line ``keypost``; says what to install where its parts are missing."""

from __future__ import annotations

import sys

from keypost.programs import imports_to_keep, needs_extra


def main() -> int:
    """Run the command line; return its exit code (see ``exit_codes``)."""
    with needs_extra("keypost", "cli"), imports_to_keep():
        from keypost.cli.app import run  # noqa: PLC0415  # its libraries may be missing
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
