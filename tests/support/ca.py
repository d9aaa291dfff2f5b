"""The CA's domain on a real database, without a server; and devices that talk to it."""

from __future__ import annotations

import io
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from keypost.clock import DAY
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.identifiers import Address
from keypost.protocol.key_info import KeyRecord, read_key_info
from keypost.protocol.key_requests import DeviceKeyPair, read_key_request, sign_possession
from keypost.protocol.realm_trust import Constants
from keypost.protocol.renewal import step_4_upload
from keypost.protocol.revocations import (
    read_reset_cancellation,
    read_revocation,
    sign_reset_cancellation,
    sign_revocation,
    verify_reset_cancellation,
    verify_revocation,
)
from keypost.protocol.rsa import public_key_der
from keypost.protocol.suites import STRONG, WEAK, Suite
from keypost_services.ca import errors
from keypost_services.ca.acts import code_made
from keypost_services.ca.approval import Approval
from keypost_services.ca.audit import NOWHERE, OPERATOR
from keypost_services.ca.authority import Authority, Start
from keypost_services.ca.codes import hash_code, new_code, realm_hash
from keypost_services.ca.database import open_store
from keypost_services.ca.decoys import Decoys
from keypost_services.ca.enrollment import Enrollment
from keypost_services.ca.events import EventFeed
from keypost_services.ca.key_quality import KeyQuality
from keypost_services.ca.nonces import Nonces
from keypost_services.ca.policy import Policy, next_revision
from keypost_services.ca.records import Records
from keypost_services.ca.renewal import Renewal
from keypost_services.ca.reset import Resets
from keypost_services.ca.revocation import Revocations
from keypost_services.ca.sign_in.admission import Admission
from keypost_services.ca.sign_in.code_sign_in import CodeSignIn
from keypost_services.ca.sign_in.oidc_sign_in import _check_same
from keypost_services.ca.sign_in.open_sign_in import OpenSignIn
from keypost_services.ca.sign_in.port import Grant, Kind, Proof
from keypost_services.ca.signatories import DeviceSignatory
from keypost_services.ca.store import Identity, OneTimeCode
from keypost_services.ca.trust.realm import Realm, ServedRealm
from keypost_services.ca.trust.signing import LocalSigner
from keypost_services.runtime.logs import make_logger
from support import ca_statements
from support.clock import ManualClock
from support.keys import KeyPool
from support.realm import SimulatedRealm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from keypost.protocol.realm_trust import RealmTrust
    from keypost.protocol.signing import Ed25519Signer
    from keypost.protocol.steps import Step
    from keypost_services.ca.sign_in.port import SignIn
    from keypost_services.ca.store import Store

KEY_LIFETIME = ca_statements.KEY_LIFETIME
RESET_DELAY = DAY
OPEN = Proof()
ISSUER = "https://id.example.org"


def served_realm(trust: RealmTrust, *signers: Ed25519Signer) -> ServedRealm:
    """Return a realm as the CA serves it, with these record keys at hand."""
    return ServedRealm(Realm(trust, signers=tuple(LocalSigner(signer) for signer in signers)))


class KnownSubjects:
    """Sign-in at an issuer whose token is the subject alone; who stays whom is the CA's own rule."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def admit(self, username: str, proof: Proof, fingerprint: bytes | None) -> Grant:
        del fingerprint
        identity = Identity(username, ISSUER, proof.id_token or "")
        _check_same(identity, await self._store.find_identities(identity))
        return Grant(identity=identity)


@dataclass
class CaBench:
    """A CA in this process, and a hand that makes honest or dishonest requests."""

    store: Store
    clock: ManualClock
    realm: SimulatedRealm
    keys: KeyPool = field(default_factory=KeyPool)
    open_sign_in: bool = True
    steps: list[Step] = field(default_factory=list)
    bounds: dict[str, int] = field(default_factory=dict)
    blocked: frozenset[bytes] = frozenset()
    quality: Any = None
    output: io.StringIO = field(default_factory=io.StringIO, repr=False)

    def __post_init__(self) -> None:
        self.trust = self.realm.trust()
        policy = Policy(self.realm.constants, KEY_LIFETIME, **self.bounds)
        nonces = Nonces(b"n" * 32, os.urandom)
        decoys = Decoys(b"n" * 32, self.clock(), KEY_LIFETIME * 2 // 3)
        self.records = Records(self.store, served_realm(self.trust, self.realm.record_signer), policy, self.clock)
        self.feed = EventFeed(self.store, poll_seconds=5, heartbeat_seconds=5)
        quality = self.quality or KeyQuality(self.blocked)
        log = make_logger("ca", "debug", "json", self.output)
        authority = Authority(self.store, nonces, policy, quality, self.records, self.feed, self.clock, log)
        self.binding = realm_hash(self.trust.realm, self.trust.root_keys)
        by_code = CodeSignIn(self.store, self.binding, self.clock)
        kinds: dict[Kind, SignIn] = {Kind.OPEN: OpenSignIn()} if self.open_sign_in else {Kind.CODE: by_code}
        kinds[Kind.OIDC] = KnownSubjects(self.store)
        sign_in = Admission(kinds, log)
        self.enrollment = Enrollment(authority, sign_in, os.urandom)
        self.renewal = Renewal(authority, self.steps.append, decoys.next_revision)
        self.approval = Approval(authority, decoys.next_revision, os.urandom)
        self.revocations = Revocations(authority)
        self.resets = Resets(authority, sign_in, RESET_DELAY)

    async def add_code(self, username: str, lifetime: int = DAY) -> Proof:
        code = new_code(os.urandom)
        code_hash = hash_code(code, username, self.binding)
        kept = OneTimeCode(code_hash, username, self.clock() + lifetime)
        await self.store.add_code(kept, code_made(kept, OPERATOR, self.clock(), NOWHERE))
        return Proof(code)

    def new_pair(self, address: Address, suite: Suite = STRONG) -> DeviceKeyPair:
        private_key = self.keys(suite)
        return DeviceKeyPair(address, suite, private_key, public_key_der(private_key))

    def request(self, pair: DeviceKeyPair, start: Start, **changes: Any) -> pb.KeyRequest:
        """Return the request that a device would make, with `changes` to its fields."""
        return ca_statements.key_request(self.trust.realm, pair, start, changes)

    async def enroll_request(
        self, username: str, /, proof: Proof = OPEN, suite: Suite = STRONG, **changes: Any
    ) -> tuple[DeviceKeyPair, pb.SignedKeyRequest]:
        start = await self.enrollment.begin(username, proof)
        pair = self.new_pair(Address(username, start.device_id), suite)
        return pair, sign_possession(self.request(pair, start, **changes), pair)

    async def renew_request(
        self, old: DeviceKeyPair, suite: Suite | None = None, **changes: Any
    ) -> tuple[DeviceKeyPair, pb.SignedKeyRequest]:
        start = await self.renewal.begin(old.address)
        pair = self.new_pair(old.address, suite or old.suite)
        fields = {"kind": pb.KEY_REQUEST_KIND_RENEW, "parent_fingerprint": old.fingerprint} | changes
        return pair, step_4_upload(self.request(pair, start, **fields), pair, old)

    async def approve_request(
        self, parent: DeviceKeyPair, suite: Suite = STRONG, **changes: Any
    ) -> tuple[DeviceKeyPair, pb.SignedKeyRequest]:
        start = await self.approval.begin(parent.address.username)
        pair = self.new_pair(Address(parent.address.username, start.device_id), suite)
        fields = {"kind": pb.KEY_REQUEST_KIND_APPROVE, "parent_fingerprint": parent.fingerprint} | changes
        return pair, step_4_upload(self.request(pair, start, **fields), pair, parent)

    async def revocation(
        self, key: DeviceKeyPair, signer: DeviceKeyPair | None = None, /, **changes: Any
    ) -> pb.SignedRevocation:
        """Return the withdrawal of a key as lost, signed by itself or another, with `changes` to its fields."""
        revision = await self.next_revision(key.address.username)
        return sign_revocation(ca_statements.revocation(self.trust.realm, key, revision, changes), signer or key)

    async def cancellation(self, signer: DeviceKeyPair, **changes: Any) -> pb.SignedResetCancellation:
        revision = await self.next_revision(signer.address.username)
        return sign_reset_cancellation(ca_statements.cancellation(self.trust.realm, signer, revision, changes), signer)

    async def next_revision(self, username: str) -> int:
        return next_revision((await self.store.find_users([username])).get(username))

    async def enroll(self, username: str, proof: Proof = OPEN, suite: Suite = STRONG) -> DeviceKeyPair:
        pair, signed = await self.enroll_request(username, proof, suite)
        await self.submit_enroll(signed, proof)
        return pair

    async def renew(self, old: DeviceKeyPair, suite: Suite | None = None) -> DeviceKeyPair:
        pair, signed = await self.renew_request(old, suite)
        await self.submit_renew(signed)
        return pair

    async def approve(self, parent: DeviceKeyPair, suite: Suite = STRONG) -> DeviceKeyPair:
        pair, signed = await self.approve_request(parent, suite)
        await self.submit_approve(signed)
        return pair

    async def revoke(self, key: DeviceKeyPair, signer: DeviceKeyPair | None = None, /, **changes: Any) -> KeyRecord:
        return await self.submit_revoke(await self.revocation(key, signer, **changes))

    async def cancel_reset(self, signer: DeviceKeyPair, **changes: Any) -> KeyRecord:
        return await self.submit_cancel(await self.cancellation(signer, **changes))

    async def submit_enroll(self, signed: pb.SignedKeyRequest, proof: Proof = OPEN) -> KeyRecord:
        request = read_key_request(signed)
        return self.read(await self.enrollment.enroll(request, proof), request.address.username)

    async def submit_renew(self, signed: pb.SignedKeyRequest) -> KeyRecord:
        request = read_key_request(signed)
        return self.read(await self.renewal.renew(request), request.address.username)

    async def submit_approve(self, signed: pb.SignedKeyRequest) -> KeyRecord:
        request = read_key_request(signed)
        return self.read(await self.approval.approve(request), request.address.username)

    async def submit_revoke(self, signed: pb.SignedRevocation) -> KeyRecord:
        revocation = read_revocation(signed)
        signatory = DeviceSignatory(
            signed.signer_fingerprint,
            signed.SerializeToString(deterministic=True),
            partial(verify_revocation, revocation),
            self.trust.constants.allowed_suites,
            errors.revocation_refused,
        )
        return self.read(await self.revocations.revoke(revocation, signatory), revocation.address.username)

    async def submit_cancel(self, signed: pb.SignedResetCancellation) -> KeyRecord:
        cancellation = read_reset_cancellation(signed)
        signatory = DeviceSignatory(
            signed.signer_fingerprint,
            signed.SerializeToString(deterministic=True),
            partial(verify_reset_cancellation, cancellation),
            self.trust.constants.allowed_suites,
            errors.reset_cancellation_refused,
            cancellation.address.device_id,
        )
        return self.read(await self.resets.cancel(cancellation, signatory), cancellation.address.username)

    async def record(self, username: str) -> KeyRecord:
        found = await self.records.find_one(username, b"")
        assert found is not None
        return self.read(found, username)

    def read(self, key_info: pb.KeyInfo, username: str) -> KeyRecord:
        """Return the record as a client believes it."""
        return read_key_info(key_info, trust=self.trust, username=username, now=self.clock())


@asynccontextmanager
async def open_bench(
    folder: Path, *, open_sign_in: bool = True, constants: Constants | None = None, **bounds: int
) -> AsyncIterator[CaBench]:
    """Yield a CA with a database of its own in `folder`, with other `bounds` of its policy if given."""
    clock = ManualClock()
    realm = SimulatedRealm(clock=clock, constants=constants or Constants(allowed_suites=(STRONG.id, WEAK.id)))
    async with open_store(f"sqlite:///{folder / 'ca.db'}") as store:
        yield CaBench(store, clock, realm, open_sign_in=open_sign_in, bounds=bounds)
