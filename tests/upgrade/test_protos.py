"""The protos of this version take nothing away that the previous one has."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PREVIOUS = "tests/upgrade/previous.binpb"


def breaks(folder: Path) -> str:
    command = [str(Path(sys.executable).parent / "buf"), "breaking", "--against", str(ROOT / PREVIOUS)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def test_nothing_is_taken_away() -> None:
    assert breaks(ROOT) == ""


def test_what_is_taken_away_is_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    proto = tmp_path / "protos/keypost/delivery/v1/delivery_service.proto"
    proto.write_text(proto.read_text().replace("rpc ListMailboxes", "rpc ListBoxes"))
    assert "ListMailboxes" in breaks(tmp_path)


def test_the_linters_look() -> None:
    assert f"breaking --against {PREVIOUS}" in (ROOT / "Makefile").read_text()
