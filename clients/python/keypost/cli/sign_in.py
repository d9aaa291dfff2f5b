"""By what whoever enrols signs in, as the command line was told."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from keypost.cli.browser_sign_in import sign_in_by_browser
from keypost.cli.errors import FileError, UsageError
from keypost.errors import InvalidArgumentError

if TYPE_CHECKING:
    from keypost.cli.output import Output
    from keypost.client import Client
    from keypost.protocol.suites import Suite

LARGEST_FILE = 16 * 1024
STANDARD_INPUT = Path("-")


@dataclass(frozen=True)
class Proof:
    """What is shown to the CA.

    Attributes:
        code: A one-time code.
        id_token_file: A file with an ID token; ``-`` is standard input.
        by_browser: Have an ID token issued, while a person signs in by a browser.
    """

    code: str | None = field(default=None, repr=False)
    id_token_file: Path | None = None
    by_browser: bool = False

    async def id_token(self, client: Client, output: Output, username: str, suite: Suite) -> str | None:
        """Return the ID token, if it is to be one; nobody signs in for a device that is enrolled already.

        Raises:
            UsageError: several proofs are given, or the realm has no issuer.
            FileError: the file cannot be read.
            SignInFailedError: nobody signed in.
        """
        self._check_one()
        if self.id_token_file is not None:
            return await asyncio.to_thread(read_id_token, self.id_token_file)
        if not self.by_browser:
            return None
        if (oidc := client.oidc) is None:
            raise UsageError(
                "the bundle names no issuer to sign in at",
                "Your administrator makes one that does (`keypost-ca bundle --oidc-issuer`), or gives you a code.",
            )
        try:
            nonce = await client.sign_in_nonce(username, suite)
        except InvalidArgumentError:
            return None  # It is a device already: whose, enroll() says.

        def show(url: str) -> None:
            output.result("sign_in", f"Sign in as {username} in your browser, at this address:\n\n  {url}\n", url=url)

        return await sign_in_by_browser(oidc, nonce, show)

    def _check_one(self) -> None:
        if sum((self.code is not None, self.id_token_file is not None, self.by_browser)) > 1:
            raise UsageError("sign in by --code, by --id-token-file or by --oidc: one of them is enough")


def read_id_token(file: Path) -> str:
    """Return the ID token in a file, or from standard input.

    Raises:
        FileError: it cannot be read, or is none.
    """
    try:
        if file == STANDARD_INPUT:
            read = sys.stdin.buffer.read(LARGEST_FILE)
        else:
            with file.open("rb") as stream:
                read = stream.read(LARGEST_FILE)
        return read.decode("ascii").strip()
    except OSError as error:
        raise FileError(f"cannot read the ID token in {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{file} holds no ID token") from error
