"""The realm of the embedded stack: made once, in its folder; what ``keypost-ca init`` and ``bundle`` do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.clock import DAY
from keypost.protocol.realm_trust import Constants
from keypost_services.ca.bundle import make_bundle
from keypost_services.ca.trust.realm_files import RealmFilesError, RealmFolder, create_realm, load_trust
from keypost_services.embedded.layout import LOOPBACK, Layout, Ports
from keypost_services.embedded.processes import StackFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keypost.clock import Clock

VALIDITY = 365 * DAY


def prepare_realm(layout: Layout, ports: Mapping[str, Ports], clock: Clock) -> None:
    """Make the realm if it is not there yet, and write the bundle that names the services' ports.

    Raises:
        StackFailedError: the realm's files are damaged, over, or of a stack that allows other suites.
    """
    folder, now = RealmFolder(layout.realm_folder), clock()
    allowed = tuple(suite.id for suite in layout.allowed_suites)
    endpoints = {name: f"{LOOPBACK}:{own['public']}" for name, own in ports.items()}
    try:
        if not layout.realm_folder.exists():
            create_realm(folder, layout.realm, Constants(allowed_suites=allowed), VALIDITY, now)
        trust = load_trust(folder, now)
        bundle = make_bundle(trust, endpoints, layout.certificates / "public-root.pem")
    except RealmFilesError as error:
        raise StackFailedError(f"{error}; a new --data folder starts anew") from error
    if set(trust.constants.allowed_suites) != set(allowed):
        raise StackFailedError(f"the realm in {layout.folder} allows other suites: choose another folder with --data")
    layout.bundle.write_text(bundle, encoding="utf-8")
