"""The realm of the embedded stack: made once, in its folder; what ``keypost-ca init`` and ``bundle`` do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import json_format

from keypost.clock import DAY
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.realm_trust import Constants
from keypost.protocol.suites import suite_named
from keypost_services.ca.realm_files import RealmFilesError, RealmFolder, create_realm, load_trust
from keypost_services.embedded.layout import LOOPBACK, Layout, Ports
from keypost_services.embedded.processes import StartFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keypost.clock import Clock

VALIDITY = 365 * DAY


def prepare_realm(layout: Layout, ports: Mapping[str, Ports], clock: Clock) -> None:
    """Make the realm if it is not there yet, and write the bundle that names the services' ports.

    Raises:
        StartFailed: the realm's files are damaged, over, or of a stack that allows other suites.
    """
    folder = RealmFolder(layout.realm_folder)
    allowed = tuple(suite_named(name).id for name in layout.allowed_suites)
    try:
        if not layout.realm_folder.exists():
            create_realm(folder, layout.realm, Constants(allowed_suites=allowed), VALIDITY, clock())
        trust = load_trust(folder, clock())
    except RealmFilesError as error:
        raise StartFailed(f"{error}; a new --data folder starts anew") from error
    if set(trust.constants.allowed_suites) != set(allowed):
        raise StartFailed(f"the realm in {layout.folder} allows other suites: choose another folder with --data")
    bundle = pb.Bundle(
        realm=layout.realm,
        endpoints=pb.Endpoints(**{name: f"{LOOPBACK}:{own['public']}" for name, own in ports.items()}),
        root_keys=[pb.RootKey(public_key_der=root) for root in trust.root_keys],
        tls_roots_pem=(layout.certificates / "public-root.pem").read_text(encoding="ascii"),
    )
    layout.bundle.write_text(json_format.MessageToJson(bundle), encoding="utf-8")
