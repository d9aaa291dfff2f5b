from __future__ import annotations

import json
from typing import TYPE_CHECKING

from keypost_services.embedded.ca_log import CaLog

if TYPE_CHECKING:
    from pathlib import Path

STEP = {
    "event": "step",
    "list": "renewal",
    "step": 5,
    "title": "the CA hashes",
    "actor": "ca",
    "fingerprint": "ab",
    "service": "ca",
    "peer": "ipv4:127.0.0.1:1",
    "request_id": "0a",
    "level": "info",
    "time": "2026-01-01T00:00:00.250000Z",
}


def test_steps_are_read_once_and_other_lines_are_not(tmp_path: Path) -> None:
    path = tmp_path / "ca.log"
    path.write_text(f'{json.dumps({"event": "serving"})}\nnot json\n"text"\n{json.dumps(STEP)}\n')
    log = CaLog(path, lambda: 42)
    assert list(log.new_steps()) == [
        {
            "event": "step",
            "process": 42,
            "list": "renewal",
            "step": 5,
            "title": "the CA hashes",
            "actor": "ca",
            "time": 1767225600250,
            "facts": {"fingerprint": "ab"},
        }
    ]
    assert list(log.new_steps()) == []


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "ca.log"
    line = json.dumps(STEP)
    path.write_text(line[:20])
    log = CaLog(path, lambda: 42)
    assert list(log.new_steps()) == []
    path.write_text(f"{line}\n")
    assert [step["step"] for step in log.new_steps()] == [5]
