"""Enters in the audit log which trust statements the CA takes up, and so each change of the realm's own keys."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.protocol.encoding import sha256
from keypost_services.ca.audit import Origin
from keypost_services.ca.audit_lines import tell
from keypost_services.ca.store import InstalledTrust

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from keypost.clock import Clock
    from keypost.protocol.realm_trust import RealmTrust
    from keypost_services.ca.audit import AuditEntry
    from keypost_services.ca.store import Store


@dataclass(frozen=True)
class TrustLog:
    """Enters trust statements.

    Attributes:
        store: Has the audit log; other replicas may write to it too.
        clock: The time.
        log: Has a line for each entry.
        origin: Which CA this is.
    """

    store: Store
    clock: Clock
    log: FilteringBoundLogger
    origin: Origin

    async def enter(self, trust: RealmTrust) -> None:
        """Enter a statement that is taken up, unless this or another replica has done it before.

        Args:
            trust: The statement, verified.

        Raises:
            StoreAwayError: The database is not there.
        """
        installed = InstalledTrust(trust.signed, self.clock(), self.origin)
        tell(self.log, await self.store.enter_trust(installed))

    async def find_contradicting(self, trust: RealmTrust) -> AuditEntry | None:
        """Return the entry of a statement that contradicts this one, None if there is none (see the store).

        Args:
            trust: The statement.

        Raises:
            StoreAwayError: The database is not there.
        """
        return await self.store.find_contradicting_trust(trust.sequence, sha256(trust.signed.realm_trust))


def this_machine() -> Origin:
    """Return where a CA is that does something by itself: the name of its machine."""
    return Origin(f"host:{socket.gethostname()}")
