"""What ``make docs`` writes: docs/settings.md, and in other pages whatever stands between these two marks.

::

    <!-- make docs: keypost --help -->
    <!-- made -->
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from keypost.cli.events import table_of_events
from keypost_services.embedded.processes import clean_environment
from support.attacks import load
from support.limits_page import table_of_limits
from support.metrics_page import table_of_labels, table_of_metrics
from support.monitoring import PROMETHEUS_RULE, prometheus_rule
from support.pages import MADE, PAGES, read
from support.settings_page import PAGE as SETTINGS
from support.settings_page import settings_page
from support.terminal import PLAIN, plain

if TYPE_CHECKING:
    import re

    from support.attacks import Attack

ATTACKS = "attacks"
EVENTS = "events"
LIMITS = "limits"
LABELS = "labels of metrics"
METRICS = "metrics of "


def remade(text: str) -> str:
    """Return a page with every made part made anew."""
    return MADE.sub(lambda part: f"{part[1]}{_make(part)}{part[4]}", text)


def _make(part: re.Match[str]) -> str:
    what = part["what"]
    if what == EVENTS:
        return table_of_events()
    if what == LIMITS:
        return table_of_limits()
    if what == LABELS:
        return table_of_labels()
    if what.startswith(METRICS):
        return table_of_metrics(what.removeprefix(METRICS))
    return table_of_attacks(load()) if what == ATTACKS else f"```text\n{help_text(what)}\n```\n"


def help_text(command: str) -> str:
    """Return what a command of this project prints; ``COLUMNS`` and colours are fixed.

    Args:
        command: Such as ``keypost-ca init --help``.
    """
    program, *arguments = command.split()
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments],
        env=clean_environment(PLAIN),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return plain(done.stdout)


def table_of_attacks(attacks: dict[str, Attack]) -> str:
    """Return the attacks that are tried and what each fails at, a table for each file of tests."""
    rows_of: dict[str, list[str]] = {}
    for test, attack in attacks.items():
        rows_of.setdefault(test.partition("::")[0], []).append(f"| {attack.attack} | {_functions(attack)} |")
    parts = []
    for file, rows in rows_of.items():
        title = f"[`tests/attacks/{file}`](../tests/attacks/{file})"
        parts.append("\n".join([title, "", "| attack | what it fails at |", "| --- | --- |", *rows, ""]))
    return "\n" + "\n".join(parts) + "\n"


def _functions(attack: Attack) -> str:
    first = ", ".join(f"`{defence.function}`" for defence in attack.defences)
    behind = ", ".join([*(f"`{defence.function}`" for defence in attack.behind), *filter(None, [attack.lastly])])
    return f"{first}; then {behind}" if behind else first


if __name__ == "__main__":
    SETTINGS.write_text(settings_page(), encoding="utf-8")
    PROMETHEUS_RULE.write_text(prometheus_rule(), encoding="utf-8")
    for page in PAGES:
        if (anew := remade(read(page))) != read(page):
            page.write_text(anew, encoding="utf-8")
