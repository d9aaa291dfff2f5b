"""A CA in memory that signs real statements: for tests of what consumes them, honest or not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keypost.clock import DAY
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.keys.v1 import realm_trust_pb2 as trust_pb
from keypost.protocol.identifiers import Address
from keypost.protocol.key_info import GOOD, REVOKED, SUPERSEDED, Key, KeyRecord, read_key_info, sign_user_keys
from keypost.protocol.key_requests import DeviceKeyPair, KeyRequest, read_key_request, sign_possession
from keypost.protocol.realm_trust import Constants, RealmTrust, read_realm_trust, sign_realm_trust
from keypost.protocol.rsa import public_key_der
from keypost.protocol.signing import Ed25519Signer
from keypost.protocol.suites import STRONG, WEAK, Suite
from support.clock import START
from support.keys import KeyPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

REALM = "example.org"
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
LIFETIME = 90 * DAY


def seeded_signer(seed: int) -> Ed25519Signer:
    """Return a signer whose key is the same in each run."""
    return Ed25519Signer(Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big")))


def device_id(number: int) -> str:
    """Return a well-formed device_id that tells its number."""
    digits = []
    for _ in range(16):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


@dataclass
class User:
    """What the realm records of one user."""

    username: str
    epoch: int = 1
    revision: int = 0
    keys: tuple[Key, ...] = ()
    history: tuple[KeyRequest, ...] = ()
    reset_time: int = 0


@dataclass
class SimulatedRealm:
    """Enrols, approves, renews, revokes and resets at a time that the test gives."""

    clock: Callable[[], int] = lambda: START
    constants: Constants = field(default_factory=lambda: Constants(allowed_suites=(STRONG.id, WEAK.id)))
    realm: str = REALM
    root: Ed25519Signer = field(default_factory=lambda: seeded_signer(1))
    record_signer: Ed25519Signer = field(default_factory=lambda: seeded_signer(2))
    new_private_key: Callable[[Suite], RSAPrivateKey] = field(default_factory=KeyPool)
    users: dict[str, User] = field(default_factory=dict)
    devices: int = 0

    def signed_trust(self, sequence: int = 1, **changes: Any) -> trust_pb.SignedRealmTrust:
        now = self.clock()
        record_key = trust_pb.RecordKey(
            public_key_der=self.record_signer.public_key_der, from_time=now - DAY, until_time=now + 400 * DAY
        )
        statement = trust_pb.RealmTrust(
            realm=self.realm,
            sequence=sequence,
            root_keys=[trust_pb.RootKey(public_key_der=self.root.public_key_der)],
            record_keys=[record_key],
            constants=self.constants.to_message(),
            until_time=now + 400 * DAY,
        )
        for name, value in changes.items():
            setattr(statement, name, value)
        return sign_realm_trust(statement, self.root)

    def trust(self) -> RealmTrust:
        return read_realm_trust(
            self.signed_trust(), realm=self.realm, root_keys=[self.root.public_key_der], now=self.clock()
        )

    def user(self, username: str) -> User:
        return self.users.setdefault(username, User(username))

    def new_pair(self, address: Address, suite: Suite = STRONG) -> DeviceKeyPair:
        private_key = self.new_private_key(suite)
        return DeviceKeyPair(address, suite, private_key, public_key_der(private_key))

    def new_address(self, username: str) -> Address:
        self.devices += 1
        return Address(username, device_id(self.devices))

    def request(
        self, pair: DeviceKeyPair, kind: pb.KeyRequestKind.ValueType, parent: bytes = b"", **changes: Any
    ) -> pb.KeyRequest:
        user = self.user(pair.address.username)
        request = pb.KeyRequest(
            realm=self.realm,
            username=pair.address.username,
            device_id=pair.address.device_id,
            suite=pair.suite.id,
            public_key_der=pair.public_key_der,
            expire_time=self.clock() + LIFETIME,
            kind=kind,
            parent_fingerprint=parent,
            epoch=user.epoch,
            revision=user.revision + 1,
            ca_nonce=b"nonce",
        )
        for name, value in changes.items():
            setattr(request, name, value)
        return request

    def signed_request(
        self,
        pair: DeviceKeyPair,
        kind: pb.KeyRequestKind.ValueType,
        parent: DeviceKeyPair | None = None,
        **changes: Any,
    ) -> pb.SignedKeyRequest:
        request = self.request(pair, kind, parent.fingerprint if parent else b"", **changes)
        signed = sign_possession(request, pair)
        if parent:
            digest = parent.suite.endorsement_hash(signed.key_request, pair.public_key_der)
            signed.endorsement = parent.suite.sign_endorsement(parent.private_key, digest)
        return signed

    def record(self, signed: pb.SignedKeyRequest) -> Key:
        """Take a request into its user's record, without a check: the realm may be dishonest."""
        request = read_key_request(signed)
        user = self.user(request.address.username)
        user.revision = request.revision
        key = Key(request, GOOD, self.clock(), self.clock())
        user.keys = (*user.keys, key)
        return key

    def enroll(self, username: str, suite: Suite = STRONG, **changes: Any) -> DeviceKeyPair:
        pair = self.new_pair(self.new_address(username), suite)
        self.record(self.signed_request(pair, pb.KEY_REQUEST_KIND_ENROLL, **changes))
        return pair

    def approve(self, parent: DeviceKeyPair, suite: Suite = STRONG, **changes: Any) -> DeviceKeyPair:
        pair = self.new_pair(self.new_address(parent.address.username), suite)
        self.record(self.signed_request(pair, pb.KEY_REQUEST_KIND_APPROVE, parent, **changes))
        return pair

    def renew(self, old: DeviceKeyPair, suite: Suite | None = None, **changes: Any) -> DeviceKeyPair:
        pair = self.new_pair(old.address, suite or old.suite)
        signed = self.signed_request(pair, pb.KEY_REQUEST_KIND_RENEW, old, **changes)
        self.set_state(old, SUPERSEDED)
        self.record(signed)
        return pair

    def revoke(
        self,
        pair: DeviceKeyPair,
        reason: pb.RevocationReason.ValueType = pb.REVOCATION_REASON_LOST,
        since: int | None = None,
    ) -> None:
        self.user(pair.address.username).revision += 1
        self.set_state(pair, REVOKED, reason, since)

    def reset(self, username: str, suite: Suite = STRONG) -> DeviceKeyPair:
        self.end_epoch(username)
        pair = self.new_pair(self.new_address(username), suite)
        self.record(self.signed_request(pair, pb.KEY_REQUEST_KIND_RESET))
        return pair

    def end_epoch(self, username: str) -> None:
        """Revoke all keys of a user for an identity reset; the next one begins a new epoch."""
        user = self.user(username)
        user.epoch += 1
        user.reset_time = 0
        reset = pb.REVOCATION_REASON_RESET
        user.keys = tuple(
            # The end of a key that had ended already is never put off.
            replace(key, state=REVOKED, state_time=self.clock() if key.is_good else key.state_time, reason=reset)
            if key.state != REVOKED
            else key
            for key in user.keys
        )

    def revoke_void(self, username: str) -> None:
        """Revoke, as an honest CA does in the same change, what a compromised key vouched for too late."""
        record = self.key_record(username)
        user = self.user(username)
        user.keys = tuple(
            replace(key, state=REVOKED, state_time=key.enter_time, reason=pb.REVOCATION_REASON_COMPROMISED)
            if record.is_void(key)
            else key
            for key in user.keys
        )

    def announce_reset(self, username: str, delay: int = DAY) -> int:
        """Announce an identity reset and return from when on it may take place."""
        user = self.user(username)
        if not user.reset_time:
            user.revision += 1
            user.reset_time = self.clock() + delay
        return user.reset_time

    def cancel_reset(self, username: str) -> None:
        user = self.user(username)
        user.revision += 1
        user.reset_time = 0

    def set_state(
        self,
        pair: DeviceKeyPair,
        state: pb.KeyState.ValueType,
        reason: pb.RevocationReason.ValueType = pb.REVOCATION_REASON_UNSPECIFIED,
        since: int | None = None,
    ) -> None:
        user = self.user(pair.address.username)
        user.keys = tuple(
            replace(key, state=state, state_time=since or self.clock(), reason=reason)
            if key.fingerprint == pair.fingerprint
            else key
            for key in user.keys
        )

    def statement(self, username: str, **changes: Any) -> pb.UserKeys:
        user, now = self.users[username], self.clock()
        statement = pb.UserKeys(
            realm=self.realm,
            username=username,
            epoch=user.epoch,
            revision=user.revision,
            this_update=now,
            next_update=now + self.constants.record_lifetime,
            entries=[key.to_entry() for key in user.keys],
            reset_time=user.reset_time,
        )
        for name, value in changes.items():
            setattr(statement, name, value)
        return statement

    def key_info(self, username: str, **changes: Any) -> pb.KeyInfo:
        """Return signed key info; ``changes`` overwrite fields of the statement before it is signed."""
        return pb.KeyInfo(
            record=sign_user_keys(self.statement(username, **changes), self.record_signer),
            history=[request.signed for request in self.users[username].history],
        )

    def key_record(self, username: str) -> KeyRecord:
        """Return the verified record."""
        return read_key_info(self.key_info(username), trust=self.trust(), username=username, now=self.clock())
