from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keypost_services.directory.bundle import read_root_keys
from keypost_services.runtime.errors import StartError
from support.directory import write_bundle
from support.realm import REALM, SimulatedRealm

if TYPE_CHECKING:
    from pathlib import Path


def test_the_root_keys_of_the_bundle_are_read(tmp_path: Path) -> None:
    realm = SimulatedRealm()
    assert read_root_keys(write_bundle(tmp_path, realm), REALM) == (realm.root.public_key_der,)


def test_a_bundle_of_another_realm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"KEYPOST_DIRECTORY_BUNDLE: .* is of example\.org, not of example\.net"):
        read_root_keys(write_bundle(tmp_path, SimulatedRealm()), "example.net")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"unknown": 1}'])
def test_what_is_no_bundle_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bundle.json"
    path.write_bytes(content)
    with pytest.raises(StartError) as refused:
        read_root_keys(path, REALM)
    assert str(refused.value).startswith("KEYPOST_DIRECTORY_BUNDLE: ")
    assert "\n" not in str(refused.value)


def test_a_bundle_without_root_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    path.write_text('{"realm": "example.org"}')
    with pytest.raises(StartError, match="has no root keys"):
        read_root_keys(path, REALM)
