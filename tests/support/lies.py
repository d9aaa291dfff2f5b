"""What a directory, a CA or a thief could make of a realm's records; for attacks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.keys.v1 import realm_trust_pb2 as trust_pb
from keypost.protocol.key_info import sign_user_keys
from keypost.protocol.key_requests import sign_possession
from keypost.protocol.realm_trust import sign_realm_trust
from keypost.protocol.tokens import peek_token
from support.realm import seeded_signer
from support.refusing import refuse

if TYPE_CHECKING:
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost.protocol.signing import Signer
    from support.realm import SimulatedRealm
    from support.simulation import Services

STRANGER = seeded_signer(66)
"""Who signs without being the realm's root or record key."""


def answer(services: Services, username: str, key_info: pb.KeyInfo) -> None:
    """Have the directory say this of a user, and the truth of all others."""
    services.serve_key_info = lambda name, info: key_info if name == username else info


def deny(services: Services, username: str) -> None:
    """Have the directory say that there is no such user, until the faults are cleared."""

    async def fault(context: Any) -> None:
        if services.requests["GetKeyInfo"][-1].username == username:
            await refuse(context, grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND", username=username)

    services.faults["GetKeyInfo"] = [fault] * 100


def admit_anybody(services: Services) -> None:
    """Have the services answer whoever calls, with whatever key: who lies does not turn the victim away."""

    async def caller(_service: str, context: Any) -> Address:
        token = dict(context.invocation_metadata())["authorization"].removeprefix("Bearer ")
        return peek_token(token).address

    services.caller = caller  # type: ignore[assignment,method-assign]


def resigned(realm: SimulatedRealm, statement: pb.UserKeys, signer: Signer | None = None) -> pb.KeyInfo:
    """Return key info with a statement of the test's own."""
    return pb.KeyInfo(record=sign_user_keys(statement, signer or realm.record_signer))


def in_place_of(realm: SimulatedRealm, username: str) -> DeviceKeyPair:
    """Have the realm forget a user and enrol an attacker under the name; return the attacker's key pair."""
    realm.users.pop(username, None)
    return realm.enroll(username)


def publish(realm: SimulatedRealm, username: str) -> None:
    """Make what was changed a revision of its own."""
    realm.users[username].revision += 1


def leave_out(realm: SimulatedRealm, pair: DeviceKeyPair) -> None:
    """Have the realm forget a key."""
    user = realm.users[pair.address.username]
    user.keys = tuple(key for key in user.keys if key.fingerprint != pair.fingerprint)


def age(realm: SimulatedRealm, *pairs: DeviceKeyPair) -> None:
    """Move keys from a user's record to its history."""
    user = realm.users[pairs[0].address.username]
    aged = {pair.fingerprint for pair in pairs}
    user.history += tuple(key.request for key in user.keys if key.fingerprint in aged)
    user.keys = tuple(key for key in user.keys if key.fingerprint not in aged)


def alter_key(realm: SimulatedRealm, pair: DeviceKeyPair, **changes: Any) -> None:
    """Change what the realm has recorded of a key."""
    user = realm.users[pair.address.username]
    user.keys = tuple(replace(key, **changes) if key.fingerprint == pair.fingerprint else key for key in user.keys)


def claim_endorsement(
    realm: SimulatedRealm, pair: DeviceKeyPair, parent: DeviceKeyPair, kind: pb.KeyRequestKind.ValueType
) -> None:
    """Record a key that names a parent which never endorsed it: it did so itself."""
    signed = sign_possession(realm.request(pair, kind, parent.fingerprint), pair)
    digest = parent.suite.endorsement_hash(signed.key_request, pair.public_key_der)
    signed.endorsement = pair.suite.sign_endorsement(pair.private_key, digest)
    realm.record(signed)


def trust_of(realm: SimulatedRealm, sequence: int, *record_keys: trust_pb.RecordKey) -> trust_pb.SignedRealmTrust:
    """Return the realm's trust with other record keys."""
    statement = trust_pb.RealmTrust.FromString(realm.signed_trust(sequence).realm_trust)
    del statement.record_keys[:]
    statement.record_keys.extend(record_keys)
    return sign_realm_trust(statement, realm.root)


def new_constants(services: Services, **changes: int) -> None:
    """Give the realm other constants, which clients learn within the record lifetime."""
    services.realm.constants = replace(services.realm.constants, **changes)  # type: ignore[arg-type]
    services.trust = services.realm.signed_trust(2)
