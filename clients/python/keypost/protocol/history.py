"""History: the requests that lead from the root of an epoch to the keys on record (docs/spec.md, "History")."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from keypost.protocol.key_requests import KeyRequest


def complete_history(
    shown: Iterable[KeyRequest], entries: Iterable[KeyRequest], held: Iterable[KeyRequest]
) -> tuple[KeyRequest, ...]:
    """Return the history that was shown with what is held of the parents that it lacks, oldest first.

    Nothing is judged here: what still lacks a parent is no tree.

    Args:
        shown: The history as it came.
        entries: The requests of the record's entries.
        held: Requests of the record's epoch that were verified before.
    """
    history = {request.fingerprint: request for request in shown}
    on_record = {request.fingerprint: request for request in entries}
    known = {request.fingerprint: request for request in held}
    for request in (*history.values(), *on_record.values()):
        parent = known.get(request.parent_fingerprint)
        while parent is not None and parent.fingerprint not in history and parent.fingerprint not in on_record:
            history[parent.fingerprint] = parent
            parent = known.get(parent.parent_fingerprint)
    return tuple(sorted(history.values(), key=lambda request: request.revision))


def newest(requests: Sequence[KeyRequest], epoch: int) -> KeyRequest | None:
    """Return the request of ``epoch`` that entered last: who names it holds all that entered before."""
    of_epoch = (request for request in requests if request.epoch == epoch)
    return max(of_epoch, key=lambda request: request.revision, default=None)


def later_history(
    history: Sequence[KeyRequest], entries: Sequence[KeyRequest], epoch: int, named: bytes
) -> Sequence[KeyRequest]:
    """Return the part of a history that an asker who knows a key does not hold yet; all of it, if that is not known.

    Args:
        history: The whole history.
        entries: The requests of the record's entries.
        epoch: The record's.
        named: Fingerprint of the newest key that the asker knows; empty: none.
    """
    known = next((request for request in (*entries, *history) if request.fingerprint == named), None)
    if known is None or known.epoch != epoch:
        return history
    return [request for request in history if request.revision > known.revision]
