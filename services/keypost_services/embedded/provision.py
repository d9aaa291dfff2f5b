"""What the composed stack of ``compose.yaml`` needs before it starts: made once, a folder for each of its parts.

``python -m keypost_services.embedded.provision --help``. A part is given its own folder and no other, so it knows what
it may know: passwords, certificates, the realm. Nothing is made twice; what an interrupted run left is made anew.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keypost.clock import DAY, system_clock
from keypost.errors import KeypostError
from keypost.protocol.identifiers import check_realm
from keypost.protocol.realm_trust import Constants
from keypost_services.ca.bundle import make_bundle
from keypost_services.ca.trust.realm_files import RealmFilesError, RealmFolder, create_realm, load_trust
from keypost_services.embedded.certificates import issue
from keypost_services.embedded.layout import ADMINISTRATOR, SERVICES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keypost.clock import Clock

PARTS = ("root", "administrator", *SERVICES, "migrations", "postgres", "cache", "mailboxes", "limits")
"""The folders; ``root`` is for nobody but this program: the root key is in it."""
ROLES = {"ca": "keypost_ca", "migrations": "keypost"}
"""The roles of PostgreSQL, by who has them."""
STORES = {"cache": ("directory",), "mailboxes": ("delivery",), "limits": SERVICES}
"""The Valkeys, and who calls them."""
VALIDITY = 365 * DAY
_GROUP_READS = 0o640
_OWNER_READS = 0o600


@dataclass(frozen=True)
class Wanted:
    """What is to be made.

    Attributes:
        folder: Has the folders of all parts.
        realm: The realm's name.
        endpoints: ``host:port`` by service: where devices call.
    """

    folder: Path
    realm: str
    endpoints: Mapping[str, str]


def provision(wanted: Wanted, clock: Clock) -> bool:
    """Make what is not there yet, and the bundles; return whether anything was there before.

    Raises:
        RealmFilesError: the realm cannot be written or read, or is another one.
    """
    made = wanted.folder / "root" / "made"
    before = made.exists()
    if not before:
        for part in PARTS:
            _empty(wanted.folder / part)
        _make_realm(wanted, clock())
        _make_certificates(wanted, clock)
        _make_passwords(wanted.folder)
    _make_bundles(wanted, clock())
    made.touch()
    return before


def _empty(folder: Path) -> None:
    """Make a folder, or empty it: it may be where a volume is mounted, and cannot be removed."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _make_realm(wanted: Wanted, now: int) -> None:
    realm = RealmFolder(wanted.folder / "root" / "realm")
    create_realm(realm, wanted.realm, Constants(), VALIDITY, now)
    for public in (realm.root_public, realm.realm_trust):
        _write(wanted.folder / "ca" / "realm" / public.name, public.read_bytes())
    _write(wanted.folder / "ca" / "record-keys" / realm.record_key.name, realm.record_key.read_bytes(), _OWNER_READS)
    realm.record_key.unlink()


def _make_certificates(wanted: Wanted, clock: Clock) -> None:
    with tempfile.TemporaryDirectory(dir=wanted.folder / "root") as name:
        made = Path(name)
        issue(made, wanted.realm, SERVICES, administrators=[ADMINISTRATOR], clock=clock)
        for service in SERVICES:
            for port in ("public", "internal"):
                folder = wanted.folder / service / "tls" / port
                _write(folder / "tls.crt", (made / service / f"{port}.pem").read_bytes())
                _write(folder / "tls.key", (made / service / f"{port}.key").read_bytes(), _OWNER_READS)
            _write(wanted.folder / service / "tls" / "internal" / "ca.crt", (made / "service-root.pem").read_bytes())
        administrator = wanted.folder / "administrator"
        for ending, mode in ((".pem", _GROUP_READS), (".key", _OWNER_READS)):
            content = (made / "administrators" / f"{ADMINISTRATOR}{ending}").read_bytes()
            _write(administrator / f"{ADMINISTRATOR}{ending}", content, mode)
        _write(administrator / "service-root.pem", (made / "service-root.pem").read_bytes())
        _write(wanted.folder / "root" / "public-root.pem", (made / "public-root.pem").read_bytes())


def _make_passwords(folder: Path) -> None:
    for part, role in ROLES.items():
        password = secrets.token_urlsafe(32)
        _write_text(folder / "postgres" / role, password)
        # libpq takes no such file that anybody else may read.
        _write_text(folder / part / "pgpass", f"*:*:*:{role}:{password}", _OWNER_READS)
    for store, callers in STORES.items():
        password = secrets.token_urlsafe(32)
        _write_text(folder / store / "password", password)
        _write_text(folder / store / "password.conf", f"requirepass {password}")
        for caller in callers:
            _write_text(folder / caller / f"{store}-url", f"redis://:{password}@{store}:6379/0", _OWNER_READS)


def _make_bundles(wanted: Wanted, now: int) -> None:
    root = wanted.folder / "root"
    trust = load_trust(RealmFolder(root / "realm"), now)
    if trust.realm != wanted.realm:
        raise RealmFilesError(f"the realm is {trust.realm}, which cannot change to {wanted.realm}")
    bundle = make_bundle(trust, wanted.endpoints, root / "public-root.pem")
    for part in ("directory", "delivery"):
        _write_text(wanted.folder / part / "bundle" / "bundle.json", bundle)


def _write_text(file: Path, text: str, mode: int = _GROUP_READS) -> None:
    _write(file, f"{text}\n".encode(), mode)


def _write(file: Path, content: bytes, mode: int = _GROUP_READS) -> None:
    """Write a file, whole or not at all: its reader may be running."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=_OWNER_READS)
    new.write_bytes(content)
    new.chmod(mode)
    new.replace(file)


def main(arguments: Sequence[str]) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="provision", description="Make passwords, certificates, a realm and its bundle for compose.yaml, once."
    )
    parser.add_argument("folder", type=Path, help=f"has a folder for each part: {', '.join(PARTS)}")
    parser.add_argument("--realm", default="example.org", help="the realm's name, which can never change")
    for service in SERVICES:
        parser.add_argument(f"--{service}", required=True, metavar="HOST:PORT", help=f"where devices call {service}")
    chosen = parser.parse_args(arguments)
    endpoints = {service: getattr(chosen, service) for service in SERVICES}
    try:
        before = provision(Wanted(chosen.folder, check_realm(chosen.realm), endpoints), system_clock)
    except (RealmFilesError, KeypostError, ValueError, OSError) as error:
        print(f"provision: {error}", file=sys.stderr)  # noqa: T201  # for whoever started it
        return 1
    print("all there already" if before else "made")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
