"""One epoch, one tree: all keys of a user descend from one root by endorsements (docs/spec.md, "The tree")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import sha256
from keypost.protocol.errors import EndorsementError, ForkDetectedError, SuiteRefusedError, TreeBrokenError
from keypost.protocol.key_requests import KeyRequest, verify_endorsement
from keypost.protocol.suites import WEAK, Suite

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True)
class Tree:
    """The keys of one epoch.

    Attributes:
        root: Fingerprint of the root.
        members: Parent fingerprint by fingerprint; the root's is empty.
        successors: The key that replaced a key, by the fingerprint of the replaced one.
        requests: SHA-256 of the key request by fingerprint.
    """

    root: bytes
    members: Mapping[bytes, bytes]
    successors: Mapping[bytes, bytes]
    requests: Mapping[bytes, bytes]


def grow_tree(epoch: int, requests: Iterable[KeyRequest], minimum: Suite = WEAK) -> Tree:
    """Verify that the keys of ``epoch`` form one tree, and return it.

    Args:
        epoch: The current epoch; requests of others are passed over.
        requests: All key requests known, in any order.
        minimum: Keys below this suite prove nothing: they are passed over, and their children count as roots.

    Raises:
        SuiteRefusedError: no key reaches ``minimum``.
        TreeBrokenError: there is no root or more than one, or a parent is unknown.
        EndorsementError: an endorsement is not what it should be.
        ForkDetectedError: a key has two renewal successors.
    """
    known = {request.fingerprint: request for request in requests if request.epoch == epoch}
    successors = _successors(known.values())
    members = {
        request.fingerprint: _verified_parent(request, known, successors, minimum)
        for request in known.values()
        if request.suite.strength >= minimum.strength
    }
    if known and not members:
        raise SuiteRefusedError(f"no key of epoch {epoch} reaches {minimum.name}")
    roots = [own for own, parent in members.items() if not parent]
    _check_one_root(roots, epoch)
    hashes = {own: sha256(known[own].signed.key_request) for own in members}
    return Tree(roots[0], members, successors, hashes)


def _check_one_root(roots: Sequence[bytes], epoch: int) -> None:
    if len(roots) != 1:
        raise TreeBrokenError(f"the keys of epoch {epoch} have {len(roots)} roots instead of one")


def _verified_parent(
    request: KeyRequest, known: Mapping[bytes, KeyRequest], successors: Mapping[bytes, bytes], minimum: Suite
) -> bytes:
    if request.is_root:
        return b""
    parent = known.get(request.parent_fingerprint)
    if parent is None:
        raise TreeBrokenError(f"the parent of key {request.fingerprint.hex()[:8]} is unknown")
    verify_endorsement(request, parent)
    if request.kind != pb.KEY_REQUEST_KIND_RENEW:
        _check_not_replaced(request, parent, known, successors)
    return _proof_of(parent, minimum)


def _proof_of(parent: KeyRequest, minimum: Suite) -> bytes:
    # Who can break a weak key can vouch in its name.
    return parent.fingerprint if parent.suite.strength >= minimum.strength else b""


def _check_not_replaced(
    request: KeyRequest, parent: KeyRequest, known: Mapping[bytes, KeyRequest], successors: Mapping[bytes, bytes]
) -> None:
    successor = successors.get(parent.fingerprint)
    if successor is not None and known[successor].revision < request.revision:
        raise EndorsementError("a key vouched for another after it had been replaced")


def _successors(requests: Iterable[KeyRequest]) -> Mapping[bytes, bytes]:
    successors: dict[bytes, bytes] = {}
    for request in requests:
        if request.kind != pb.KEY_REQUEST_KIND_RENEW:
            continue
        _check_no_successor_yet(request.parent_fingerprint, successors)
        successors[request.parent_fingerprint] = request.fingerprint
    return successors


def _check_no_successor_yet(replaced: bytes, successors: Mapping[bytes, bytes]) -> None:
    if replaced in successors:
        raise ForkDetectedError(f"key {replaced.hex()[:8]} has two successors")
