from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from keypost_services.embedded.certificates import issue
from keypost_services.runtime.errors import StartError
from keypost_services.runtime.tls import check_own_certificate

if TYPE_CHECKING:
    from pathlib import Path


def load(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def verify(leaf: Path, root: Path, name: str) -> None:
    store = Store([load(root)])
    PolicyBuilder().store(store).build_server_verifier(x509.DNSName(name)).verify(load(leaf), [])


def test_each_certificate_chains_to_its_root_and_to_no_other(tmp_path: Path) -> None:
    issue(tmp_path, "example.org", ["ca", "delivery"])
    public, internal = tmp_path / "public-root.pem", tmp_path / "service-root.pem"
    verify(tmp_path / "ca/public.pem", public, "localhost")
    verify(tmp_path / "ca/internal.pem", internal, "ca.keypost.internal")
    with pytest.raises(x509.verification.VerificationError):
        verify(tmp_path / "ca/public.pem", internal, "localhost")
    with pytest.raises(x509.verification.VerificationError):
        verify(tmp_path / "ca/internal.pem", internal, "delivery.keypost.internal")


def test_private_keys_are_their_owners_and_no_root_key_is_written(tmp_path: Path) -> None:
    issue(tmp_path, "example.org", ["ca"])
    issue(tmp_path, "example.org", ["ca"])
    keys = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.key"))
    assert keys == ["ca/internal.key", "ca/public.key"]
    assert {stat.S_IMODE((tmp_path / key).stat().st_mode) for key in keys} == {0o600}


def test_an_administrator_calls_and_is_never_called(tmp_path: Path) -> None:
    issue(tmp_path, "example.org", ["ca"], administrators=["ada.lovelace"])
    root, leaf = load(tmp_path / "service-root.pem"), load(tmp_path / "administrators/ada.lovelace.pem")
    builder = PolicyBuilder().store(Store([root]))
    subjects = builder.build_client_verifier().verify(leaf, []).subjects
    assert subjects == [x509.UniformResourceIdentifier("keypost://example.org/administrator/ada.lovelace")]
    with pytest.raises(x509.verification.VerificationError):
        builder.build_server_verifier(x509.DNSName("ca.keypost.internal")).verify(leaf, [])
    key = tmp_path / "administrators/ada.lovelace.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_service_starts_with_its_own_certificate_only(tmp_path: Path) -> None:
    issue(tmp_path, "example.org", ["ca", "delivery"])
    check_own_certificate(tmp_path / "ca/internal.pem", "example.org", "ca")
    with pytest.raises(StartError, match="the certificate of delivery, and this is ca"):
        check_own_certificate(tmp_path / "delivery/internal.pem", "example.org", "ca")
    with pytest.raises(StartError, match="refused"):
        check_own_certificate(tmp_path / "ca/public.pem", "example.org", "ca")
    issue(tmp_path, "example.org", ["ca"], administrators=["ca"])
    with pytest.raises(StartError, match="no service"):
        check_own_certificate(tmp_path / "administrators/ca.pem", "example.org", "ca")
