"""What docs/operations.md says of its table of speeds follows from the table."""

from __future__ import annotations

import re

from benchmarks.report import below_the_aim
from support.pages import ROOT, read

PAGE = read(ROOT / "docs" / "operations.md")
TABLE = PAGE.partition("<!-- make bench PAGE=1 -->\n")[2].partition("<!-- made -->")[0]
CPU = re.compile(r"(\w+) ([\d,]+)")


def rows() -> list[dict[str, str | float]]:
    """Return the rows of the table, as far as the sentences need them."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TABLE.splitlines() if line.startswith("| ")]
    return [
        {"name": name, "durability": durability, "ratio": float(ratio), "aim": float(aim)}
        for name, durability, _, _, ratio, aim, *_ in cells[2:]
    ]


def milliseconds(name: str, durability: str, process: str) -> int:
    """Return what CPU time a process took for a thousand of a row."""
    (line,) = (line for line in TABLE.splitlines() if line.startswith(f"| {name} | {durability} |"))
    return int(dict(CPU.findall(line.split("|")[7]))[process].replace(",", ""))


def test_all_rows_below_their_aim_are_named() -> None:
    assert len(rows()) >= 12
    assert below_the_aim(rows()) in TABLE.splitlines()


def test_what_is_within_its_aim_is_not_named() -> None:
    row = {"name": "one pair", "durability": "fsync", "ratio": 0.499, "aim": 0.5}
    assert below_the_aim([row]) == "Nothing is below its aim."
    assert below_the_aim([row | {"ratio": 0.49}]) == "Below the aim are: one pair (fsync)."


def test_sizing_goes_by_the_table() -> None:
    sizing = read(ROOT / "docs" / "sizing.md")
    look_up = milliseconds("one look-up, from process memory", "", "directory")
    send = milliseconds("one unary send", "fsync", "delivery")
    # Half a core, which the manifests ask for, in hundreds a second.
    assert f"{500_000 // look_up // 100 * 100:,} by the {look_up} ms of" in sizing
    assert f"{500_000 // send // 100 * 100:,} by `Send` ({send} ms," in sizing
    assert f"One takes {look_up / 1000:.2f} ms of the directory's CPU" in PAGE
