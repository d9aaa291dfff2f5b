from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keypost.client.profiles import read_bundle
from keypost.clock import DAY, system_clock
from keypost_services.embedded import certificates
from keypost_services.embedded.layout import SERVICES, SHAPES, Layout
from keypost_services.embedded.processes import StackFailedError
from keypost_services.embedded.realm import VALIDITY, prepare_realm
from keypost_services.embedded.stack import Stack

if TYPE_CHECKING:
    from pathlib import Path

PORTS = {name: {"public": 10 + number, "internal": 20 + number} for number, name in enumerate(SERVICES)}


def layout_in(folder: Path, *, weak_suite: bool = False) -> Layout:
    layout = Layout(folder, weak_suite=weak_suite)
    if not layout.certificates.exists():
        certificates.issue(layout.certificates, layout.realm, SERVICES)
    return layout


def test_the_bundle_names_the_public_ports_and_the_roots(tmp_path: Path) -> None:
    prepare_realm(layout_in(tmp_path), PORTS, system_clock)
    bundle = read_bundle(tmp_path / "bundle.json")
    assert (bundle.endpoints.ca, bundle.endpoints.directory) == ("127.0.0.1:10", "127.0.0.1:11")
    assert bundle.endpoints.delivery == "127.0.0.1:12"
    assert bundle.tls_roots_pem == (tmp_path / "tls" / "public-root.pem").read_text()


def test_the_second_bundle_names_the_second_replicas(tmp_path: Path) -> None:
    layout = replace(layout_in(tmp_path), shape=SHAPES["postgres"])
    ports = PORTS | {"ca-2": {"public": 30, "internal": 40}, "delivery-2": {"public": 31, "internal": 41}}
    prepare_realm(layout, ports, system_clock)
    bundles = [read_bundle(path).endpoints for path in layout.bundles]
    assert [(to.ca, to.directory, to.delivery) for to in bundles] == [
        ("127.0.0.1:10", "127.0.0.1:11", "127.0.0.1:12"),
        ("127.0.0.1:30", "127.0.0.1:11", "127.0.0.1:31"),
    ]


def test_the_realm_is_made_once(tmp_path: Path) -> None:
    for _ in range(2):
        prepare_realm(layout_in(tmp_path), PORTS, system_clock)
        roots = {bytes(key.public_key_der) for key in read_bundle(tmp_path / "bundle.json").root_keys}
    assert len(roots) == 1


def test_a_folder_of_the_strong_suite_does_not_become_one_of_the_weak(tmp_path: Path) -> None:
    prepare_realm(layout_in(tmp_path), PORTS, system_clock)
    with pytest.raises(StackFailedError, match="other suites"):
        prepare_realm(layout_in(tmp_path, weak_suite=True), PORTS, system_clock)


def test_a_realm_that_is_over_is_told(tmp_path: Path) -> None:
    prepare_realm(layout_in(tmp_path), PORTS, system_clock)
    with pytest.raises(StackFailedError, match="--data"):
        prepare_realm(layout_in(tmp_path), PORTS, lambda: system_clock() + VALIDITY + DAY)


def test_two_stacks_do_not_share_a_folder(tmp_path: Path) -> None:
    first, second = (Stack(layout_in(tmp_path)) for _ in range(2))
    first._lock_folder()
    with pytest.raises(StackFailedError, match="another stack"):
        second._lock_folder()
    first.stop()
    second._lock_folder()
    second.stop()
