"""The command line as it is, with the tokens that it mints written down: ``recorded_cli.py FILE ARGUMENT...``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from keypost.cli.__main__ import main
from keypost.client import identity
from keypost.protocol.tokens import mint_token


def record_tokens(file: Path) -> None:
    def minted(*arguments: Any) -> str:
        token = mint_token(*arguments)
        with file.open("a") as record:
            record.write(f"{token}\n")
        return token

    vars(identity)["mint_token"] = minted  # there is nothing smaller to reach into


if __name__ == "__main__":
    record_tokens(Path(sys.argv.pop(1)))
    sys.exit(main())
