"""The options by which whoever uses the command line signs in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Code = Annotated[str | None, typer.Option(envvar="KEYPOST_CODE", help="The one-time code from your administrator.")]
Oidc = Annotated[
    bool, typer.Option("--oidc", help="Sign in at the realm's issuer, in your browser: its address is printed.")
]
IdTokenFile = Annotated[
    Path | None,
    typer.Option(help="Sign in by the ID token in this file (-: standard input), with the nonce of `nonce`."),
]
