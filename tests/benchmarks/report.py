"""The figures for people: a line a row, and below it what each process has used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_WIDTH = 58


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
