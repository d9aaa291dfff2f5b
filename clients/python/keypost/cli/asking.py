"""What a person at the terminal is asked."""

from __future__ import annotations

import sys

from keypost.cli.errors import HintedError, UsageError
from keypost.protocol.texts import MOST_CHARACTERS


class NotConfirmedError(HintedError):
    """Somebody was asked, and did not say yes."""

    reason = "NOT_CONFIRMED"


def check_can_ask(*, is_for_people: bool) -> None:
    """Verify that somebody is there to confirm.

    Raises:
        UsageError: nobody is.
    """
    if not is_for_people or not sys.stdin.isatty():
        raise UsageError("this wants to be confirmed, and there is nobody to ask", "Say --yes if you are sure.")


def confirm(question: str) -> None:
    """Go on if the person says so.

    Raises:
        NotConfirmedError: anything but yes was said.
    """
    if _typed(f"{question} [y/n] ").lower() not in {"y", "yes"}:
        raise NotConfirmedError("nothing was done, since it was not confirmed")


def read_pasted(given: str | None, what: str) -> str:
    """Return a text that was given as an argument, or else what is typed, pasted or piped.

    Args:
        given: The argument.
        what: What it is, for the prompt.

    Raises:
        UsageError: there is none.
    """
    if given is None:
        given = _typed(f"Paste the {what}: ") if sys.stdin.isatty() else sys.stdin.read(MOST_CHARACTERS + 1)
    if not given.strip():
        raise UsageError(f"the {what} is missing", f"Give it as an argument, or by standard input: {what.upper()}.")
    return given


def _typed(question: str) -> str:
    # Not by input(), which asks on standard output: what stands there is for whoever reads the result.
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip()
