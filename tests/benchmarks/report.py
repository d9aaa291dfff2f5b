"""The figures for people: a line a row, what each process has used below; and the table of docs/operations.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_WIDTH = 58
PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
_TABLE = re.compile(r"(?<=<!-- make bench PAGE=1 -->\n).*?(?=<!-- made -->)", re.DOTALL)
_HEAD = (
    "| | durability | a second | baseline | ratio | aim | CPU ms for 1,000 | baseline's | of CPU |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a report as it is written to the file."""
    yield f"{'':<{_WIDTH}}{'a second':>12}{'baseline':>12}{'ratio':>8}{'aim':>7}"
    for row in report["rows"]:
        yield from _row(row)
    yield ""
    yield f"{'a record':<{_WIDTH}}{'CPU ms':>12}{'bytes':>12}"
    for name, figure in report["record_signing"].items():
        yield f"{name:<{_WIDTH}}{figure['cpu_milliseconds']:>12.3f}{figure.get('bytes', ''):>12}"


def _row(row: Mapping[str, Any]) -> Iterator[str]:
    name = f"{row['name']}, {row['durability']}" if row["durability"] else row["name"]
    aim = f"{row['aim']:>7}" if row["aim"] else ""
    yield f"{name:<{_WIDTH}}{row['per_second']:>12,.0f}{row['baseline_per_second']:>12,.0f}{row['ratio']:>8.2f}{aim}"
    yield f"  CPU ms a 1,000: {_cpu(row['cpu_seconds_per_1000'])}"
    yield f"  baseline, {row['baseline']}: {_cpu(row['baseline_cpu_seconds_per_1000'])}"


def _cpu(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value * 1000:,.0f}" for name, value in seconds.items())


def write_page(report: Mapping[str, Any]) -> None:
    """Write the table of docs/operations.md, and what in it is below its aim."""
    before, meanwhile = report["load"]
    about = f"Measured on {report['machine']}; the load was {before} before, and {meanwhile} in the last five minutes."
    table = "\n".join((about, "", *_HEAD, *map(_page_row, report["rows"]), "", below_the_aim(report["rows"])))
    page, number = _TABLE.subn(lambda _: f"{table}\n", PAGE.read_text(), count=1)
    if number != 1:
        raise ValueError(f"{PAGE.name} has no place for the table")
    PAGE.write_text(page)


def below_the_aim(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the sentence that names all rows whose ratio, as the page shows it, is below the aim."""
    below: dict[str, list[str]] = {}
    for row in rows:
        if round(row["ratio"], 2) < row["aim"]:
            below.setdefault(row["name"], []).extend(filter(None, [row["durability"]]))
    named = (f"{name} ({', '.join(durabilities)})" if durabilities else name for name, durabilities in below.items())
    return f"Below the aim are: {'; '.join(named)}." if below else "Nothing is below its aim."


def _page_row(row: Mapping[str, Any]) -> str:
    ours, baseline = row["cpu_seconds_per_1000"], row["baseline_cpu_seconds_per_1000"]
    cells = (
        row["name"],
        row["durability"],
        f"{row['per_second']:,.0f}",
        f"{row['baseline_per_second']:,.0f}",
        f"{row['ratio']:.2f}",
        f"{row['aim']:g}",
        _cpu(ours),
        _cpu(baseline),
        f"{sum(baseline.values()) / sum(ours.values()):.2f}",
    )
    return f"| {' | '.join(cells)} |"
