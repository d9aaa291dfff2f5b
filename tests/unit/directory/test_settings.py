from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost_services.directory.settings import DirectorySettings
from keypost_services.embedded.certificates import issue
from keypost_services.runtime.config import describe_settings, load_settings
from support.directory import SERVICES, tls_settings, write_bundle
from support.realm import REALM, SimulatedRealm

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    issue(tmp_path, REALM, SERVICES)
    values: dict[str, Any] = tls_settings(tmp_path, "directory") | {
        "ca": "127.0.0.1:1",
        "cache_url": "redis://127.0.0.1:1/0",
        "bundle": write_bundle(tmp_path, SimulatedRealm()),
    }
    for name, value in values.items():
        monkeypatch.setenv(f"KEYPOST_DIRECTORY_{name.upper()}", str(value))
    return monkeypatch


def test_settings_come_from_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("KEYPOST_DIRECTORY_NEGATIVE_SECONDS", "7")
    settings = load_settings(DirectorySettings)
    assert settings.realm == REALM
    assert settings.ca == "127.0.0.1:1"
    assert settings.negative_seconds == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CACHE_URL", "http://127.0.0.1"),
        ("CACHE_TIMEOUT_SECONDS", "0"),
        ("WATCH_GRACE_SECONDS", "1"),
        ("BUNDLE", "/nowhere/bundle.json"),
        ("EVENT_BUFER", "1"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    environment.setenv(f"KEYPOST_DIRECTORY_{name}", value)
    with pytest.raises(SystemExit) as ended:
        load_settings(DirectorySettings)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"KEYPOST_DIRECTORY_{name}: ")


def test_without_a_service_certificate_it_does_not_start(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.delenv("KEYPOST_DIRECTORY_INTERNAL_TLS_CERTIFICATE")
    with pytest.raises(SystemExit):
        load_settings(DirectorySettings)
    assert "KEYPOST_DIRECTORY_INTERNAL_TLS_CERTIFICATE" in capsys.readouterr().err


def test_every_setting_is_documented() -> None:
    assert all(field.description for field in DirectorySettings.model_fields.values())
    assert "KEYPOST_DIRECTORY_WATCH_GRACE_SECONDS (default 30.0)" in describe_settings(DirectorySettings)
