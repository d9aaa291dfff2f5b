"""``keypost-embedded``: the whole stack on one machine; says what to install where its parts are missing."""

from __future__ import annotations

import sys

from keypost.programs import imports_to_keep, needs_extra


def main() -> int:
    """Run the command that the arguments name; return its exit code."""
    with needs_extra("keypost-embedded", "embedded"), imports_to_keep():
        from keypost_services.embedded.command_line import run  # noqa: PLC0415  # its libraries may be missing
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
