from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic_settings import SettingsConfigDict

from keypost_services.runtime.bundle import read_root_keys
from keypost_services.runtime.config import ServiceSettings
from keypost_services.runtime.errors import StartError
from support.directory import write_bundle
from support.realm import SimulatedRealm

if TYPE_CHECKING:
    from pathlib import Path


class ExampleSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="KEYPOST_EXAMPLE_")


def settings(realm: str = "example.org") -> ExampleSettings:
    return ExampleSettings.model_construct(realm=realm)


def test_the_root_keys_of_the_bundle_are_read(tmp_path: Path) -> None:
    realm = SimulatedRealm()
    assert read_root_keys(settings(), write_bundle(tmp_path, realm)) == (realm.root.public_key_der,)


def test_a_bundle_of_another_realm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"KEYPOST_EXAMPLE_BUNDLE: .* is of example\.org, not of example\.net"):
        read_root_keys(settings("example.net"), write_bundle(tmp_path, SimulatedRealm()))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"unknown": 1}'])
def test_what_is_no_bundle_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bundle.json"
    path.write_bytes(content)
    with pytest.raises(StartError) as refused:
        read_root_keys(settings(), path)
    assert str(refused.value).startswith("KEYPOST_EXAMPLE_BUNDLE: ")
    assert "\n" not in str(refused.value)


def test_a_bundle_without_root_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    path.write_text('{"realm": "example.org"}')
    with pytest.raises(StartError, match="has no root keys"):
        read_root_keys(settings(), path)


def test_no_file_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="is no bundle"):
        read_root_keys(settings(), tmp_path / "nothing.json")


def test_a_bundle_of_no_realm_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    path.write_text("{}")
    with pytest.raises(StartError, match="is of no realm"):
        read_root_keys(settings(), path)
