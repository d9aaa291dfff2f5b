from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from keypost_services.embedded.layout import SERVICES
from keypost_services.embedded.ports import choose_ports

if TYPE_CHECKING:
    from pathlib import Path


def test_ports_are_all_different_and_remembered(tmp_path: Path) -> None:
    ports = choose_ports(tmp_path / "ports.json")
    assert set(ports) == set(SERVICES)
    assert len({port for own in ports.values() for port in own.values()}) == 6
    assert choose_ports(tmp_path / "ports.json") == ports


def test_when_one_is_taken_all_are_chosen_anew(tmp_path: Path) -> None:
    ports = choose_ports(tmp_path / "ports.json")
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", ports["directory"]["public"]))
        somebody.listen()
        others = choose_ports(tmp_path / "ports.json")
    assert others["directory"]["public"] != ports["directory"]["public"]
    assert choose_ports(tmp_path / "ports.json") == others


def test_when_there_are_more_processes_all_are_chosen_anew(tmp_path: Path) -> None:
    choose_ports(tmp_path / "ports.json")
    names = (*SERVICES, "delivery-2")
    ports = choose_ports(tmp_path / "ports.json", names)
    assert set(ports) == set(names)
    assert choose_ports(tmp_path / "ports.json", names) == ports


@pytest.mark.parametrize("content", ["", "[]", '{"ca": {"public": "x"}}', '{"ca": {"public": 99999999}}'])
def test_a_file_that_somebody_spoiled_is_written_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "ports.json").write_text(content)
    assert set(choose_ports(tmp_path / "ports.json")) == set(SERVICES)
