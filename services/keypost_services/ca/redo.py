"""The audit log as a log of redo: what a restored database lacks is made again from entries that were kept elsewhere.

Each entry has what was signed, and says when and by whom it was done; so a change comes back as it was made, to the
revision and the millisecond, and is entered in the log again under the same hash. That is how it is checked.
"""

from __future__ import annotations

import json
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from keypost.clock import DAY
from keypost.errors import KeypostError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.keys.v1 import realm_trust_pb2 as trust_pb
from keypost.protocol.key_requests import ROOT_KINDS, read_key_request
from keypost_services.ca.audit import (
    BEGINNING,
    Act,
    Action,
    Actor,
    ActorKind,
    AuditBrokenError,
    AuditEntry,
    Origin,
    check_reaches,
    verify_chain,
)
from keypost_services.ca.convert import recorded_key
from keypost_services.ca.sign_in.port import subject_of
from keypost_services.ca.store import (
    ENDED,
    Change,
    Ending,
    EventDraft,
    Identity,
    IdentityTakenError,
    InstalledTrust,
    KeyAlreadyKnownError,
    OneTimeCode,
    RevisionTakenError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from keypost.protocol.key_requests import KeyRequest
    from keypost_services.ca.audit import Head
    from keypost_services.ca.store import Store, User

_ENTERING = {Action.ENROLLED, Action.APPROVED, Action.RENEWED, Action.RESET_DONE}
_RESETS = {
    Action.RESET_ANNOUNCED: pb.KEY_EVENT_KIND_RESET_ANNOUNCED,
    Action.RESET_ALLOWED: pb.KEY_EVENT_KIND_RESET_ANNOUNCED,
    Action.RESET_CANCELLED: pb.KEY_EVENT_KIND_RESET_CANCELLED,
}
_REVOKED = pb.KEY_STATE_REVOKED
_BYTES = ("fingerprint", "evidence")
_OVERTAKEN = (RevisionTakenError, KeyAlreadyKnownError, IdentityTakenError)


class IssuerMissingError(Exception):
    """An entry tells of a sign-in at an issuer, and nobody said at which."""


def read_entries(lines: Iterable[str]) -> Iterator[AuditEntry]:
    """Yield the entries that ``audit list --json`` printed.

    Args:
        lines: With their ends: one without is the last of a run that was stopped while it wrote, if it is no entry.

    Raises:
        ValueError: A line is none.
    """
    for number, line in enumerate(lines, start=1):
        try:
            yield _read_entry(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, json.JSONDecodeError) and not line.endswith("\n"):
                raise ValueError(
                    f"line {number}, the last one, is cut off: take it out, and list again what comes after the entry "
                    "before it"
                ) from error
            raise ValueError(f"line {number} is no entry of the audit log as `audit list --json` prints it") from error


def lines_of_file(file: Path) -> list[str]:
    """Return a file's lines with their ends; raises OSError, or UnicodeDecodeError (a ValueError)."""
    return file.read_text(encoding="utf-8").splitlines(keepends=True)


def in_order(entries: Iterable[AuditEntry], after: int = 0) -> list[AuditEntry]:
    """Return those after a number in their order, each once."""
    found = {entry.sequence: entry for entry in entries if entry.sequence > after}
    return [found[sequence] for sequence in sorted(found)]


async def redo(store: Store, entries: Sequence[AuditEntry], noted: Head = BEGINNING, issuer: str = "") -> int:
    """Make again what the store lacks of these entries; return how many entries that were.

    Args:
        store: The restored one; nobody else writes to it.
        entries: They begin not later than where the store ends; some may come twice. The last that it has is compared.
        noted: A head that was noted elsewhere: store and entries must have it.
        issuer: The URL of the issuer of ID tokens, of which entries have the subjects alone; empty if there is none.

    Raises:
        AuditBrokenError: The entries are not this log's, or were altered; what came before is made again.
        IssuerMissingError: One tells of a sign-in at an issuer; nothing is made again.
    """
    head = await store.audit_head()
    await _check_stored(store, head, noted)
    same = [entry for entry in entries if entry.sequence == head.sequence]
    if any(entry.hash != head.hash for entry in same):
        raise AuditBrokenError(f"entry {head.sequence} is another one in the database: they are of different logs")
    lacking = in_order(entries, head.sequence)
    check_reaches(verify_chain(head, lacking, noted), noted)
    _check_issuer(lacking, issuer)
    for together in _changes(lacking):
        await _make(store, together, issuer)
    return len(lacking)


async def _check_stored(store: Store, head: Head, noted: Head) -> None:
    """Compare a head that was noted with the store's own entry, if it has come so far."""
    if not BEGINNING.sequence < noted.sequence <= head.sequence:
        return
    stored = await store.list_audit_entries(noted.sequence - 1, 1)
    if [(entry.sequence, entry.hash) for entry in stored] != [(noted.sequence, noted.hash)]:
        raise AuditBrokenError(f"entry {noted.sequence} in the database is not the one that was noted")


def _check_issuer(entries: Sequence[AuditEntry], issuer: str) -> None:
    missing = next((entry for entry in entries if not issuer and _subject_of(entry.act)), None)
    if missing is not None:
        raise IssuerMissingError(
            f"{missing.act.username} enrolled by a sign-in at the issuer (entry {missing.sequence}): name that with "
            "--issuer, else whoever is given the name there next enrols as this user"
        )


async def _make(store: Store, entries: Sequence[AuditEntry], issuer: str) -> None:
    acts = [entry.act for entry in entries]
    if acts[0].action == Action.CODE_MADE:
        # Whether it was used up is not known: it is of no use to anybody.
        await store.add_code(OneTimeCode(acts[0].evidence, acts[0].username, ENDED), acts[0], entries)
        return
    if acts[0].action == Action.CODE_WITHDRAWN:
        await store.withdraw_codes(acts[0], acts[0].evidence, entries)
        return
    try:
        if acts[0].action == Action.TRUST_INSTALLED:
            await store.enter_trust(_installed(acts[0]), entries)
        else:
            user = (await store.find_users([acts[0].username])).get(acts[0].username)
            await store.apply(_change(acts, user, issuer), entries)
    except (KeypostError, DecodeError, ValueError, *_OVERTAKEN) as error:
        why = str(error) or type(error).__name__
        raise AuditBrokenError(f"entry {entries[0].sequence} cannot be made again: {why}") from error


def _changes(entries: Sequence[AuditEntry]) -> Iterator[list[AuditEntry]]:
    """Yield the entries of each change together."""
    starts = accumulate(entry.act.action == Action.TRUST_INSTALLED for entry in entries)
    # Two statements may have one sequence: what tells them apart is where each begins.
    for _, together in groupby(zip(entries, starts, strict=True), lambda pair: (_change_of(pair[0]), pair[1])):
        yield [entry for entry, _ in together]


def _change_of(entry: AuditEntry) -> object:
    """Return what the entries of one change have in common; of one that is on its own, its number."""
    return (entry.act.username, entry.act.revision) if entry.act.revision else entry.sequence


def _installed(act: Act) -> InstalledTrust:
    signed = trust_pb.SignedRealmTrust.FromString(act.evidence)
    return InstalledTrust(signed, act.create_time, Origin(act.peer, act.request_id))


def _change(acts: Sequence[Act], user: User | None, issuer: str) -> Change:
    """Return the change that was told as these acts."""
    first = acts[0]
    request = _request_of(first)
    if user is None and request is None:
        raise ValueError("there is no such user")
    return Change(
        username=first.username,
        epoch=request.epoch if request is not None else user.epoch if user is not None else 0,
        revision=first.revision,
        time=first.create_time,
        actor=Actor(ActorKind(first.actor_kind), first.actor, b"" if request else first.evidence),
        origin=Origin(first.peer, first.request_id),
        key=None if request is None else recorded_key(request, first.create_time),
        endings=tuple(_endings(acts, request, user)),
        events=tuple(_events(acts, request)),
        reset_time=_reset_time(first, request, user),
        identity=_identity_of(first, issuer),
    )


def _identity_of(act: Act, issuer: str) -> Identity | None:
    """Return who signed in at the issuer for this, as a first key's entry tells."""
    subject = _subject_of(act)
    return Identity(act.username, issuer, subject) if subject else None


def _subject_of(act: Act) -> str:
    # A reset that is announced keeps nobody: only an enrolment does.
    if act.actor_kind != ActorKind.SIGN_IN or act.action not in (Action.ENROLLED, Action.RESET_DONE):
        return ""
    return subject_of(act.actor)


def _request_of(act: Act) -> KeyRequest | None:
    if act.action not in _ENTERING:
        return None
    return read_key_request(pb.SignedKeyRequest.FromString(act.evidence))


def _endings(acts: Sequence[Act], request: KeyRequest | None, user: User | None) -> Iterator[Ending]:
    if request is not None and request.kind == pb.KEY_REQUEST_KIND_RENEW:
        yield Ending(request.parent_fingerprint, pb.KEY_STATE_SUPERSEDED)
    for act in acts:
        if act.action == Action.REVOKED:
            since = None if request is not None else _since(act, is_first=act is acts[0], user=user)
            yield Ending(act.fingerprint, _REVOKED, pb.RevocationReason.ValueType(act.reason), since)


def _since(act: Act, *, is_first: bool, user: User | None) -> int | None:
    """Return since when a key counts as revoked: of one that is void with another, since it entered."""
    if is_first:
        signed = pb.SignedRevocation.FromString(act.evidence)
        return pb.Revocation.FromString(signed.revocation).since_time or None
    key = None if user is None else user.find(act.fingerprint)
    return None if key is None else key.enter_time


def _events(acts: Sequence[Act], request: KeyRequest | None) -> Iterator[EventDraft]:
    for act in acts:
        if act.action == Action.REVOKED:
            yield EventDraft(pb.KEY_EVENT_KIND_REVOKED, act.fingerprint, act.fingerprint)
        elif (kind := _RESETS.get(Action(act.action))) is not None:
            yield EventDraft(kind)
    if request is not None:
        renewed = request.kind == pb.KEY_REQUEST_KIND_RENEW
        kind = pb.KEY_EVENT_KIND_RENEWED if renewed else pb.KEY_EVENT_KIND_ENROLLED
        yield EventDraft(kind, request.fingerprint, request.parent_fingerprint if renewed else b"")


def _reset_time(act: Act, request: KeyRequest | None, user: User | None) -> int:
    """Return from when on a reset may take place after a change."""
    times = {
        # The log does not say for when: it is called off afterwards, as all are.
        Action.RESET_ANNOUNCED: act.create_time + DAY,
        Action.RESET_ALLOWED: act.create_time,
        Action.RESET_CANCELLED: 0,
    }
    if request is not None and request.kind in ROOT_KINDS:
        return 0
    return times.get(Action(act.action), 0 if user is None else user.reset_time)


def _read_entry(facts: dict[str, Any]) -> AuditEntry:
    values = {name: value for name, value in facts.items() if name not in ("sequence", "hash")}
    values |= {name: bytes.fromhex(facts[name]) for name in _BYTES}
    values["reason"] = pb.RevocationReason.Value(f"REVOCATION_REASON_{(facts['reason'] or 'unspecified').upper()}")
    return AuditEntry(int(facts["sequence"]), Act(**values), bytes.fromhex(facts["hash"]))
