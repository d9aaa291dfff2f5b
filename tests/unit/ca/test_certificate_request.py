from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typer.testing import CliRunner

from keypost_services.ca.command_line import app
from keypost_services.embedded.certificates import administrator_names

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result


def run(folder: Path, name: str, realm: str = "example.org", *more: str) -> Result:
    arguments = ["admin", "request", name, "--realm", realm, "--folder", str(folder), *more]
    return CliRunner().invoke(app, arguments)


def test_a_request_asks_for_exactly_the_certificate_that_the_ca_takes(tmp_path: Path) -> None:
    made = json.loads(run(tmp_path / "new", "ada.lovelace", "example.org", "--json").stdout)
    assert made["uri"] == "keypost://example.org/administrator/ada.lovelace"
    key_file, request_file = tmp_path / "new/ada.lovelace.key", tmp_path / "new/ada.lovelace.csr"
    assert (made["private_key"], made["request"]) == (str(key_file), str(request_file))
    request = x509.load_pem_x509_csr(request_file.read_bytes())
    assert request.is_signature_valid
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert tuple(names) == administrator_names("example.org", "ada.lovelace")
    assert request.public_key() == load_pem_private_key(key_file.read_bytes(), None).public_key()
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    assert run(tmp_path, "ada").exit_code == 0
    key = (tmp_path / "ada.key").read_bytes()
    result = run(tmp_path, "ada")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "ada.key is there already" in result.stderr
    assert (tmp_path / "ada.key").read_bytes() == key


@pytest.mark.parametrize(("name", "realm"), [("Ada", "example.org"), ("../ada", "example.org"), ("ada", "Example")])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str, realm: str) -> None:
    result = run(tmp_path, name, realm)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
