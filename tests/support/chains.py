"""Trust statements by which root keys hand over, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.realm_trust import RealmTrust, ServedTrust, follow_realm_trust, sequence_of, sign_realm_trust
from support.realm import REALM, SimulatedRealm, seeded_signer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.protocol.signing import Ed25519Signer


@dataclass
class Chain:
    """The statements of a realm whose root keys change.

    Attributes:
        realm: Makes what stands in the statements besides.
        statements: All of them, oldest first; the first one lists the realm's root key.
    """

    realm: SimulatedRealm = field(default_factory=SimulatedRealm)
    statements: list[pb.SignedRealmTrust] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.statements = self.statements or [self.realm.signed_trust()]

    def add(self, root: Ed25519Signer, *listed: Ed25519Signer, **changes: int) -> pb.SignedRealmTrust:
        """Append the next statement: signed by ``root``, it lists these root keys."""
        sequence = sequence_of(self.statements[-1]) + 1
        statement = pb.RealmTrust.FromString(self.realm.signed_trust(sequence, **changes).realm_trust)
        del statement.root_keys[:]
        statement.root_keys.extend(pb.RootKey(public_key_der=key.public_key_der) for key in listed)
        self.statements.append(sign_realm_trust(statement, root))
        return self.statements[-1]

    def hand_over(self, old: Ed25519Signer, new: Ed25519Signer) -> None:
        """Announce a root key by a statement of the old one, and list it alone in the next."""
        self.add(old, old, new)
        self.add(new, new)

    @property
    def served(self) -> ServedTrust:
        """What an honest CA hands out: the newest, and those before it whose root keys are not those before them."""
        return ServedTrust(
            self.statements[-1],
            tuple(
                after
                for before, after in zip(self.statements, self.statements[1:-1], strict=False)
                if roots_of(before) != roots_of(after)
            ),
        )

    def follow(
        self,
        served: ServedTrust | None = None,
        *,
        previous: RealmTrust | None = None,
        root_keys: Sequence[bytes] | None = None,
    ) -> RealmTrust:
        """Return what a client with this bundle, that saw ``previous`` last, believes of what is served."""
        return follow_realm_trust(
            served or self.served,
            realm=REALM,
            root_keys=root_keys or sorted(roots_of(self.statements[0])),
            now=self.realm.clock(),
            previous=previous,
        )


def roots_of(signed: pb.SignedRealmTrust) -> frozenset[bytes]:
    """Return the root keys that a statement lists."""
    statement = pb.RealmTrust.FromString(signed.realm_trust)
    return frozenset(key.public_key_der for key in statement.root_keys)


def handed_over(*seeds: int) -> Chain:
    """Return a chain in which the realm's root key handed over to the keys of these seeds, one after the other."""
    chain = Chain()
    roots = [chain.realm.root, *map(seeded_signer, seeds)]
    for old, new in pairwise(roots):
        chain.hand_over(old, new)
    return chain
