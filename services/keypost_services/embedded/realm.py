"""The realm of the embedded stack: made once, in its folder; what ``keypost-ca init`` and ``bundle`` do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.clock import DAY
from keypost.protocol.realm_trust import Constants
from keypost_services.ca.bundle import make_bundle
from keypost_services.ca.trust.realm_files import RealmFilesError, RealmFolder, create_realm, load_trust
from keypost_services.embedded.layout import LOOPBACK, SERVICES, Layout, Ports, name_of
from keypost_services.embedded.processes import StackFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keypost.clock import Clock

VALIDITY = 365 * DAY


def prepare_realm(layout: Layout, ports: Mapping[str, Ports], clock: Clock) -> None:
    """Make the realm if it is not there yet, and write the bundles that name the services' ports.

    Raises:
        StackFailedError: the realm's files are damaged, over, or of a stack that allows other suites.
    """
    folder, now = RealmFolder(layout.realm_folder), clock()
    allowed = tuple(suite.id for suite in layout.allowed_suites)
    try:
        if not layout.realm_folder.exists():
            create_realm(folder, layout.realm, Constants(allowed_suites=allowed), VALIDITY, now)
        trust = load_trust(folder, now)
        bundles = [
            make_bundle(trust, _endpoints(ports, number), layout.certificates / "public-root.pem")
            for number in range(1, len(layout.bundles) + 1)
        ]
    except RealmFilesError as error:
        raise StackFailedError(f"{error}; a new --data folder starts anew") from error
    if set(trust.constants.allowed_suites) != set(allowed):
        raise StackFailedError(f"the realm in {layout.folder} allows other suites: choose another folder with --data")
    for path, bundle in zip(layout.bundles, bundles, strict=True):
        path.write_text(bundle, encoding="utf-8")


def _endpoints(ports: Mapping[str, Ports], number: int) -> dict[str, str]:
    """Return where a client calls that has the replicas of this number, where there are so many."""
    chosen = {service: ports.get(name_of(service, number), ports[service]) for service in SERVICES}
    return {service: f"{LOOPBACK}:{own['public']}" for service, own in chosen.items()}
