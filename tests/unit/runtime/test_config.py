from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from keypost_services.embedded.certificates import issue
from keypost_services.runtime.config import ServiceSettings, describe_settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path


class ExampleSettings(ServiceSettings):
    model_config = SettingsConfigDict(
        env_prefix="KEYPOST_EXAMPLE_", extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    cache_url: str = Field(description="URL of the cache.", default="redis://127.0.0.1", pattern="^rediss?://")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    issue(tmp_path, "example.org", ["example"])
    monkeypatch.setenv("KEYPOST_EXAMPLE_REALM", "example.org")
    monkeypatch.setenv("KEYPOST_EXAMPLE_TLS_CERTIFICATE", str(tmp_path / "example/public.pem"))
    monkeypatch.setenv("KEYPOST_EXAMPLE_TLS_PRIVATE_KEY", str(tmp_path / "example/public.key"))
    return monkeypatch


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        load_settings(ExampleSettings)
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_the_environment_sets_everything(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("KEYPOST_EXAMPLE_PUBLIC_LISTEN", "[::]:8443")
    environment.setenv("KEYPOST_EXAMPLE_DRAIN_SECONDS", "7.5")
    environment.setenv("KEYPOST_EXAMPLE_METRICS_LISTEN", "")
    settings = load_settings(ExampleSettings)
    assert settings.public_listen == "[::]:8443"
    assert settings.drain_seconds == 7.5
    assert settings.metrics_listen is None
    assert not settings.reflection


def test_a_missing_setting_is_named_and_explained(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.delenv("KEYPOST_EXAMPLE_REALM")
    environment.delenv("KEYPOST_EXAMPLE_TLS_PRIVATE_KEY")
    line = refusal(capsys)
    assert line.startswith("KEYPOST_EXAMPLE_REALM: must be set. The realm, such as example.org.")
    assert "KEYPOST_EXAMPLE_TLS_PRIVATE_KEY" in line


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("REALM", "Not A Realm", "a realm is 1 to 253"),
        ("PUBLIC_LISTEN", "8443", "must be host:port"),
        ("PUBLIC_LISTEN", "localhost:99999", "must be host:port"),
        ("TLS_CERTIFICATE", "/nowhere/at-all.pem", "path does not point to a file"),
        ("DRAIN_SECONDS", "-1", "greater than or equal to 0"),
        ("MAX_CALLS", "many", "valid integer"),
        ("TRUSTED_PROXIES", "192.0.2.0/24,gateway", "gateway"),
        ("TRUSTED_PROXIES", "::/0", "everybody"),
        ("LOG_LEVEL", "loud", "'debug', 'info'"),
        ("CACHE_URL", "http://user:hunter2@host", "pattern"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_the_variable_and_not_its_value(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, why: str
) -> None:
    environment.setenv(f"KEYPOST_EXAMPLE_{name}", value)
    line = refusal(capsys)
    assert line.startswith(f"KEYPOST_EXAMPLE_{name}: ")
    assert why in line
    assert "hunter2" not in line


def test_a_misspelt_variable_is_refused(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    environment.setenv("KEYPOST_EXAMPLE_DRAIN_SECOND", "3")
    assert refusal(capsys) == (
        "KEYPOST_EXAMPLE_DRAIN_SECOND: there is no such setting; is it KEYPOST_EXAMPLE_DRAIN_SECONDS?\n"
    )


LIMITS_FILE = "KEYPOST_EXAMPLE_LIMITS_URL_FILE"


def test_a_secret_setting_may_be_in_a_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "limits-url"
    file.write_text("redis://:hunter2@limits:6379/0\nnot this\n")
    environment.setenv(LIMITS_FILE, str(file))
    assert load_settings(ExampleSettings).limits_url == "redis://:hunter2@limits:6379/0"
    assert LIMITS_FILE in describe_settings(ExampleSettings)


@pytest.mark.parametrize(
    ("content", "variables", "begins"),
    [
        (b"http://hunter2", {}, "KEYPOST_EXAMPLE_LIMITS_URL: must be a Redis URL"),
        (
            b"redis://hunter2",
            {LIMITS_FILE.removesuffix("_FILE"): "redis://a"},
            f"{LIMITS_FILE}: KEYPOST_EXAMPLE_LIM",
        ),
        (b"redis://hunter2" * 5000, {}, f"{LIMITS_FILE}: "),
        (b"hunter2\xff", {}, f"{LIMITS_FILE}: cannot read"),
        (None, {}, f"{LIMITS_FILE}: cannot read"),
        (b"x", {"KEYPOST_EXAMPLE_REALM_FILE": "/x"}, "KEYPOST_EXAMPLE_REALM_FILE: there is no such setting"),
    ],
)
def test_a_bad_file_is_one_line_without_what_is_in_it(
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    content: bytes | None,
    variables: dict[str, str],
    begins: str,
) -> None:
    file = tmp_path / "limits-url"
    if content is not None:
        file.write_bytes(content)
    for name, value in {LIMITS_FILE: str(file), **variables}.items():
        environment.setenv(name, value)
    line = refusal(capsys)
    assert line.startswith(begins)
    assert "hunter2" not in line


def test_variables_of_kubernetes_services_are_not_ours(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("KEYPOST_EXAMPLE_SERVICE_HOST", "10.0.0.1")
    environment.setenv("KEYPOST_EXAMPLE_PORT_8443_TCP_ADDR", "10.0.0.1")
    load_settings(ExampleSettings)


def test_an_internal_port_wants_all_of_its_tls_files(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("KEYPOST_EXAMPLE_INTERNAL_LISTEN", "127.0.0.1:0")
    line = refusal(capsys)
    for name in ("INTERNAL_TLS_CERTIFICATE", "INTERNAL_TLS_PRIVATE_KEY", "INTERNAL_TLS_ROOT"):
        assert f"KEYPOST_EXAMPLE_{name}" in line


def test_every_setting_is_documented() -> None:
    text = describe_settings(ExampleSettings)
    for name, field in ExampleSettings.model_fields.items():
        assert field.description, name
        assert f"KEYPOST_EXAMPLE_{name.upper()} (" in text
    assert "KEYPOST_EXAMPLE_REALM (required)" in text
    assert "KEYPOST_EXAMPLE_REFLECTION (default false)" in text
    assert "KEYPOST_EXAMPLE_READY_FILE (optional)" in text
