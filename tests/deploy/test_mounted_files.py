"""Files as Kubernetes mounts them: links through ``..data``, which one rename turns to the next version of all."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from keypost.protocol.realm_trust import Constants
from keypost_services.ca.settings import CaSettings
from keypost_services.ca.trust.realm_files import RealmFolder, create_realm
from keypost_services.ca.trust.realm_source import RealmSource
from keypost_services.embedded.certificates import issue
from keypost_services.runtime.tls import TlsFiles
from support.manifests.rendering import rendered
from support.manifests.resources import Manifests
from support.manifests.settings import environment_of, files_of

if TYPE_CHECKING:
    from pathlib import Path

REALM = "example.org"
START = 1_700_000_000_000
YEAR = 365 * 24 * 3_600_000


def mount(folder: Path, version: str, files: dict[str, bytes]) -> None:
    """Write ``files`` as the kubelet does, the first time or in place of an earlier version."""
    (folder / version).mkdir(parents=True)
    for name, content in files.items():
        (folder / version / name).write_bytes(content)
    (folder / "..data_tmp").symlink_to(version)
    (folder / "..data_tmp").rename(folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def made_realm(folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the files of a new realm: what goes into the ConfigMap, and what into the Secret."""
    made = RealmFolder(folder)
    create_realm(made, REALM, Constants(), YEAR, START)
    shown = {file.name: file.read_bytes() for file in (made.root_public, made.realm_trust)}
    return shown, {made.record_key.name: made.record_key.read_bytes()}


def mounted_in_the_ca() -> dict[str, set[str]]:
    """Return the names of the files in each folder that is mounted into the CA."""
    manifests = Manifests(rendered("production"))
    (pod,) = [pod for pod in manifests.services if pod.name == "keypost-ca"]
    folders: dict[str, set[str]] = {}
    for path in files_of(manifests, pod):
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, set()).add(name)
    settings = environment_of(manifests, pod)
    return {name: folders[settings[name]] for name in ("KEYPOST_CA_REALM_FOLDER", "KEYPOST_CA_RECORD_KEY")}


def test_the_ca_reads_its_realm_from_two_mounts_and_sees_them_change(tmp_path: Path) -> None:
    shown, keys = made_realm(tmp_path / "made")
    assert mounted_in_the_ca() == {"KEYPOST_CA_REALM_FOLDER": {*shown}, "KEYPOST_CA_RECORD_KEY": {*keys}}
    realm, record_keys = tmp_path / "realm", tmp_path / "record-keys"
    mount(realm, "..1", shown)
    mount(record_keys, "..1", keys)
    settings = CaSettings.model_construct(realm_folder=realm, record_key=record_keys, passphrase_file=None)
    source = RealmSource(settings, lambda: START)
    loaded, before = source.load(), source.state()
    assert loaded.trust.realm == REALM
    assert len(loaded.signers) == 1
    mount(realm, "..2", shown)
    assert source.state() != before
    assert source.load().trust == loaded.trust


def test_a_certificate_that_is_renewed_in_its_mount_is_noticed(tmp_path: Path) -> None:
    for version in ("..1", "..2"):
        issue(tmp_path / version / "made", REALM, ["ca"])
        made = tmp_path / version / "made" / "ca"
        pair = {"tls.crt": (made / "internal.pem").read_bytes(), "tls.key": (made / "internal.key").read_bytes()}
        pair["ca.crt"] = (tmp_path / version / "made" / "service-root.pem").read_bytes()
        shutil.rmtree(tmp_path / version)
        folder = tmp_path / "tls"
        files = TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
        before = files.stamp() if folder.exists() else None
        mount(folder, version, pair)
        files.load()
        assert files.stamp() != before
