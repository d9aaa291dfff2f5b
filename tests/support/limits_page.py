"""The table of limits in docs/limits.md, made from the code."""

from __future__ import annotations

from keypost_services.runtime.auth import CallerKind
from keypost_services.runtime.limits.table import (
    ADMINISTRATOR_CALLS,
    LOOK_UPS,
    METHOD_LIMITS,
    QUOTAS,
    SERVICE_CALLS,
    SIGN_IN_ADDRESS,
    SIGN_IN_RESERVE,
    SIGN_IN_USERNAME,
    UNKNOWN_USERS,
)
from keypost_services.runtime.limits.text import write_quotas

WHOSE = {CallerKind.ANYONE: "network address", CallerKind.DEVICE: "device"}
WHAT = {
    LOOK_UPS: "users looked up, of a device",
    UNKNOWN_USERS: "users looked up or sent to that do not exist, of a device",
    SERVICE_CALLS: "calls of a service",
    ADMINISTRATOR_CALLS: "calls of an administrator",
    SIGN_IN_ADDRESS: "failed sign-ins from a network address",
    SIGN_IN_USERNAME: "failed sign-ins for a username",
    SIGN_IN_RESERVE: "failed sign-ins for a username from one network address, once the username's are used up",
}


def table_of_limits() -> str:
    """Return every limit, what it counts, and how much there is by default."""
    rows = (
        f"| `{name}` | {WHAT.get(name) or _calls(name)} | `{write_quotas(quotas)}` |" for name, quotas in QUOTAS.items()
    )
    return "\n".join(["", "| limit | counts | default |", "| --- | --- | --- |", *rows, ""]) + "\n"


def _calls(name: str) -> str:
    (kind,) = {kind for row in METHOD_LIMITS.values() for kind, names in row.limits.items() if name in names}
    return f"calls, of a {WHOSE[kind]}"
