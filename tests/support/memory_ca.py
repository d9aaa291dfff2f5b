"""A CA in this process whose store is in memory, and which asks nothing of the quality of keys: for many histories."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.keys.v1 import realm_trust_pb2 as trust_pb
from keypost.protocol.realm_trust import sign_realm_trust
from keypost_services.ca.store import RecordedKey, RevisionTakenError, User
from support.ca import CaBench
from support.clock import YEAR, ManualClock
from support.keys import crossed_keys
from support.realm import SimulatedRealm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from keypost.protocol.suites import Suite
    from keypost_services.ca.audit import AuditEntry
    from keypost_services.ca.store import Change, Ending, Store


class MemoryStore:
    """What of the port ``Store`` records need, in memory; tests/contract/ca says what it has to do."""

    def __init__(self) -> None:
        self.users: dict[str, User] = {}

    async def find_users(self, usernames: Sequence[str]) -> Mapping[str, User]:
        return {name: self.users[name] for name in usernames if name in self.users}

    async def find_key(self, fingerprint: bytes) -> RecordedKey | None:
        return next((key for user in self.users.values() if (key := user.find(fingerprint))), None)

    async def apply(self, change: Change) -> Sequence[AuditEntry]:
        user = self.users.get(change.username) or User(change.username, change.epoch, 0, ())
        if change.revision != user.revision + 1:
            raise RevisionTakenError
        endings = {ending.fingerprint: ending for ending in change.endings}
        keys = tuple(_ended(key, endings.get(key.fingerprint), change.time) for key in user.keys)
        entering = () if change.key is None else (change.key,)
        self.users[change.username] = User(
            change.username, change.epoch, change.revision, (*keys, *entering), change.reset_time
        )
        return ()  # there is no audit log in memory


def _ended(key: RecordedKey, ending: Ending | None, now: int) -> RecordedKey:
    if ending is None:
        return key
    since = now if ending.since is None else ending.since
    if key.state != pb.KEY_STATE_GOOD:
        since = key.state_time if ending.since is None else min(since, key.state_time)
    return replace(key, state=ending.state, reason=ending.reason, state_time=since)


class AnyKey:
    """Says nothing against any key: those of the pool are public, and their primes are used more than once."""

    def check(self, request: object) -> None:
        del request


class LastingRealm(SimulatedRealm):
    """A realm whose first trust statement and record key hold for as long as any history."""

    def signed_trust(self, sequence: int = 1, **changes: Any) -> trust_pb.SignedRealmTrust:
        until = self.clock() + 100 * YEAR
        der = self.record_signer.public_key_der
        record_key = trust_pb.RecordKey(public_key_der=der, from_time=self.clock(), until_time=until)
        statement = trust_pb.RealmTrust.FromString(super().signed_trust(sequence, **changes).realm_trust)
        statement.until_time = until
        del statement.record_keys[:]
        statement.record_keys.append(record_key)
        return sign_realm_trust(statement, self.root)


def memory_ca() -> CaBench:
    """Return a CA that knows nobody yet."""
    clock = ManualClock()
    realm = LastingRealm(clock=clock)
    return CaBench(cast("Store", MemoryStore()), clock, realm, keys=cast("Any", _each_once()), quality=AnyKey())


def _each_once() -> Callable[[Suite], RSAPrivateKey]:
    keys: dict[Suite, Iterator[RSAPrivateKey]] = {}
    return lambda suite: next(keys.setdefault(suite, crossed_keys(suite)))
