from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keypost.clock import DAY, HOUR, MINUTE, SECOND
from keypost_services.ca.durations import parse_duration
from keypost_services.ca.settings import CaSettings
from keypost_services.ca.sign_in.port import Kind
from keypost_services.runtime.config import load_settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    pem = tmp_path / "file.pem"
    pem.touch()
    values = {
        "REALM": "example.org",
        "TLS_CERTIFICATE": str(pem),
        "TLS_PRIVATE_KEY": str(pem),
        "DATABASE": "sqlite:///ca.db",
        "REALM_FOLDER": str(tmp_path),
    }
    for name, value in values.items():
        monkeypatch.setenv(f"KEYPOST_CA_{name}", value)
    return monkeypatch


@pytest.mark.usefixtures("environment")
def test_the_defaults_are_safe() -> None:
    settings = load_settings(CaSettings)
    assert settings.sign_in == (Kind.CODE,)
    assert settings.key_lifetime == 90 * DAY
    assert settings.reflection is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SIGN_IN", "everybody"),
        ("SIGN_IN", "code,everybody"),
        ("SIGN_IN", "code,code"),
        ("SIGN_IN", "code,"),
        ("OIDC_ISSUER", "http://id.example.org"),
        ("OIDC_ISSUER", "https://"),
        ("OIDC_ISSUER", "https://name:password@id.example.org"),
        ("OIDC_ISSUER", "https://id.example.org?realm=main"),
        ("OIDC_ISSUER", "https://id.example.org#main"),
        ("OIDC_ISSUER", "https://id.example.org/" + "a" * 512),
        ("OIDC_CA_BUNDLE", "/nowhere/roots.pem"),
        ("DATABASE", "mysql://localhost/ca"),
        ("DATABASE", "nonsense"),
        ("KEY_LIFETIME_DAYS", "399"),
        ("KEY_LIFETIME_DAYS", "0"),
        ("REALM", "Example"),
        ("SIGNIN", "code"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    environment.setenv(f"KEYPOST_CA_{name}", value)
    with pytest.raises(SystemExit) as stopped:
        load_settings(CaSettings)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"KEYPOST_CA_{name}" in line


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("30s", 30 * SECOND), ("90m", 90 * MINUTE), ("12h", 12 * HOUR), ("60d", 60 * DAY)]
)
def test_durations_are_read(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize(
    "text", ["", "60", "d", "0d", "-1d", "1.5h", "1w", "1D", " 1d", "1d1h", "9" * 10 + "d", "\u0661d"]
)
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [("open", (Kind.OPEN,)), ("oidc,code", (Kind.OIDC, Kind.CODE)), (" code , open ", (Kind.CODE, Kind.OPEN))],
)
def test_several_kinds_of_sign_in_are_read(environment: pytest.MonkeyPatch, text: str, kinds: tuple[Kind, ...]) -> None:
    environment.setenv("KEYPOST_CA_SIGN_IN", text)
    environment.setenv("KEYPOST_CA_OIDC_ISSUER", "https://id.example.org/realms/main")
    environment.setenv("KEYPOST_CA_OIDC_CLIENT_ID", "keypost")
    assert load_settings(CaSettings).sign_in == kinds


@pytest.mark.parametrize("given", ["OIDC_ISSUER", "OIDC_CLIENT_ID"])
def test_oidc_needs_issuer_and_client_id(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    environment.setenv("KEYPOST_CA_SIGN_IN", "oidc")
    environment.setenv(f"KEYPOST_CA_{given}", "https://id.example.org")
    with pytest.raises(SystemExit):
        load_settings(CaSettings)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "sign-in by oidc needs KEYPOST_CA_OIDC_ISSUER and KEYPOST_CA_OIDC_CLIENT_ID"


def test_the_password_of_the_database_is_not_shown(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("KEYPOST_CA_DATABASE", "postgresql://keypost_ca:a-password@db.example.org/keypost")
    settings = load_settings(CaSettings)
    assert "a-password" in settings.database
    assert "a-password" not in repr(settings) + str(settings)


@pytest.mark.parametrize("url", ["postgresql://ca:a-password@host", "postgresql+nothing://ca:a-password@host/keypost"])
def test_a_wrong_url_is_refused_without_its_password(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    environment.setenv("KEYPOST_CA_DATABASE", url)
    with pytest.raises(SystemExit):
        load_settings(CaSettings)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("KEYPOST_CA_DATABASE: ")
    assert "a-password" not in line
