"""The command that compares safety numbers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from keypost.cli.errors import UsageError
from keypost.protocol.errors import SafetyNumberDiffersError

if TYPE_CHECKING:
    from keypost.cli.output import Output
    from keypost.cli.perform import Action
    from keypost.client import Client, SafetyNumber

LINE = 24
"""Characters of four groups: three lines for two users."""


def verify(username: str, matches: str | None, scan: str | None, *, remove: bool) -> Action:
    """Return the command that shows a safety number, and marks its user as verified if it is the other side's."""

    async def action(client: Client, output: Output) -> None:
        if sum((matches is not None, scan is not None, remove)) > 1:
            raise UsageError("give one of --matches, --scan and --remove")
        if remove:
            await client.set_unverified(username)
            output.result("unverified", f"{username} is not verified any more.", username=username)
            return
        compared = scan if matches is None else matches
        if compared is None:
            compared = await _show_and_ask(client, output, username)
        if compared is not None:
            await client.set_verified(username, compared)
            output.result("verified", f"{username} is verified.", username=username)

    return action


async def _show_and_ask(client: Client, output: Output, username: str) -> str | None:
    """Return the number if the person says that it is the other side's too."""
    number = await client.safety_number(username)
    _show(number, output)
    if number.verified or not _somebody_is_there(output):
        return None
    return number.digits if _is_confirmed(f"Does {username} see the same? [y/n] ", username) else None


def _show(number: SafetyNumber, output: Output) -> None:
    if number.changed:
        sentence = f"{number.username} has another identity than the one that you knew: it may be an attack"
        output.notice("warning", "IDENTITY_CHANGED", sentence)
    state = "verified" if number.verified else "not verified"
    title = f"Safety number of you and {number.username} ({state}):"
    output.qr(number.code)
    output.result(
        "safety_number",
        "\n".join([title, "", *lines_of(number), "", _how_to_compare(number.username)]),
        username=number.username,
        digits=number.digits,
        code=number.code,
        verified=number.verified,
        changed=number.changed,
    )


def lines_of(number: SafetyNumber) -> list[str]:
    """Return the digits as a block: four groups of five on a line."""
    grouped = number.grouped
    return [f"    {grouped[at : at + LINE].rstrip()}" for at in range(0, len(grouped), LINE)]


def _how_to_compare(username: str) -> str:
    return f"Compare it with what {username} sees, by telephone or face to face; not over Keypost."


def _somebody_is_there(output: Output) -> bool:
    return output.is_for_people and sys.stdin.isatty() and sys.stdout.isatty()


def _is_confirmed(question: str, username: str) -> bool:
    """Return whether the person confirms; one who just goes on decides nothing.

    Raises:
        SafetyNumberDiffersError: the person says that the other side sees another number.
    """
    answer = input(question).strip().lower()
    if answer in {"n", "no"}:
        raise SafetyNumberDiffersError(
            f"you and {username} do not see the same keys: somebody may be between the two of you", username=username
        )
    return answer in {"y", "yes"}
