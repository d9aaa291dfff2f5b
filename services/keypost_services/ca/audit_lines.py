"""The audit log as the commands show and verify it, wherever its entries come from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keypost.keys.v1 import key_info_pb2 as pb
from keypost_services.ca.audit import BEGINNING, Action, check_reaches, verify_chain
from keypost_services.ca.codes import id_of
from keypost_services.ca.printing import shown_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import FilteringBoundLogger

    from keypost_services.ca.audit import Act, AuditEntry, Head

Entries = AsyncIterator["AuditEntry"]
BROKEN = 1
"""The exit code of a command that finds a log which does not verify."""
_SHOWN_DIGITS = 8
_LOGGED = ("sequence", "action", "actor_kind", "username", "device_id", "fingerprint", "revision", "reason")
_OF_CODES = {Action.CODE_MADE, Action.CODE_WITHDRAWN}
_NO_REASON = "REVOCATION_REASON_UNSPECIFIED"


@dataclass(frozen=True)
class Wanted:
    """Which entries are wanted; times in Unix milliseconds, 0 for no bound; after which number."""

    username: str = ""
    from_time: int = 0
    until_time: int = 0
    after: int = 0


ALL = Wanted()


async def verify(entries: Entries, noted: Head = BEGINNING) -> Head:
    """Verify a whole log; return its head.

    Args:
        entries: All of them, from the first.
        noted: A head that was noted elsewhere: the log must have it.

    Raises:
        AuditBrokenError: An entry was altered, removed or put in.
    """
    head = BEGINNING
    async for entry in entries:
        head = verify_chain(head, [entry], noted)
    check_reaches(head, noted)
    return head


def facts_of(entry: AuditEntry) -> dict[str, Any]:
    """Return an entry for machines: bytes in hexadecimal digits."""
    act = entry.act
    return {
        "sequence": entry.sequence,
        "create_time": act.create_time,
        "action": str(act.action),
        "actor_kind": str(act.actor_kind),
        "actor": act.actor,
        "username": act.username,
        "device_id": act.device_id,
        "fingerprint": act.fingerprint.hex(),
        "revision": act.revision,
        "reason": _reason(act),
        "peer": act.peer,
        "request_id": act.request_id,
        "evidence": act.evidence.hex(),
        "hash": entry.hash.hex(),
    }


def line_facts(entry: AuditEntry) -> dict[str, Any]:
    """Return what the CA's own log tells of an entry: which key of whom, and not what was signed."""
    facts = facts_of(entry)
    return {name: facts[name] for name in _LOGGED if facts[name]}


def tell(log: FilteringBoundLogger, entries: Sequence[AuditEntry]) -> None:
    """Log what was done: a line for each of its entries, none of them left out as those of calls are."""
    for entry in entries:
        log.info("change", **line_facts(entry))


def line_of(entry: AuditEntry) -> str:
    """Return an entry for people, in a line."""
    act = entry.act
    parts = [
        f"{entry.sequence}  {shown_time(act.create_time)}  {act.action}  {_subject(act)}",
        f"code {id_of(act.evidence)}" if act.action in _OF_CODES else act.fingerprint.hex()[:_SHOWN_DIGITS],
        _reason(act),
        f"by {act.actor_kind} {act.actor}".rstrip(),
        f"from {act.peer}" if act.peer else "",
        f"request {act.request_id}" if act.request_id else "",
    ]
    return "  ".join(filter(None, parts))


def _subject(act: Act) -> str:
    if not act.username:
        return f"trust {act.revision}"
    return f"{act.username}/{act.device_id}" if act.device_id else act.username


def _reason(act: Act) -> str:
    name = pb.RevocationReason.DESCRIPTOR.values_by_number.get(act.reason)
    shown = str(act.reason) if name is None else name.name
    return "" if shown == _NO_REASON else shown.removeprefix("REVOCATION_REASON_").lower()
