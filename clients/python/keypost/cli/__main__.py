"""Entry of the command line ``keypost``; says what to install where its parts are missing."""

from __future__ import annotations

import importlib.util
import sys

NEEDS = ("rich", "typer")


def main() -> int:
    """Run the command line; return its exit code (see ``exit_codes``)."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"The command line needs {' and '.join(missing)}; install it with:  pip install 'keypost[cli]'",
            file=sys.stderr,
        )
        return 1
    from keypost.cli.app import run  # noqa: PLC0415  # only now is it known that its imports exist

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
