"""The CA's methods, with what may stand in their requests."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.ca.v1 import key_info_service_pb2 as info_pb
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.encoding import KEY_REQUEST
from keypost.protocol.rsa import public_key_der
from keypost.protocol.suites import STRONG, WEAK
from keypost_services.runtime.channels import mutual_tls_channel
from support.bad_input import ca_administration, ca_statements, health
from support.bad_input.rules import (
    OK,
    Rule,
    device_id,
    form,
    invalid,
    number,
    one_of,
    refused,
    size,
    size_between,
    statement,
    username,
)
from support.bad_input.surface import Exchange, Surface, made, unary, watching
from support.ca_service import OPEN, REALM, open_ca
from support.internal_channel import internal_channel
from support.keys import KeyPool, pooled_key
from support.limits import UNLIMITED
from support.service import settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost.protocol.suites import Suite
    from support.ca_service import CaUnderTest

DEVICES, DIRECTORIES = "/keypost.ca.v1.CertificateAuthorityService/", "/keypost.ca.v1.KeyInfoService/"
NAMES = (
    *(DEVICES + name for name in ("GetRealmTrust", "BeginEnrollment", "Enroll", "BeginRenewal", "Renew")),
    *(DEVICES + name for name in ("BeginApproval", "Approve", "RequestReset")),
    *ca_statements.NAMES,
    *(DIRECTORIES + name for name in ("GetKeyInfo", "BatchGetKeyInfo", "WatchKeyEvents")),
    *ca_administration.NAMES,
    *health.NAMES,
)
MOST_APPROVALS = 30
STATEMENT = "key_request.key_request"
NONCE = refused("the nonce was drawn for another address", "FAILED_PRECONDITION/NONCE_EXPIRED")
TAKEN = refused("the record has another revision", "ABORTED/REVISION_TAKEN")
SIGN_IN = refused("this CA takes no such proof", "PERMISSION_DENIED/SIGN_IN_REFUSED")
UNENDORSED = refused("no key on record vouches for it", "PERMISSION_DENIED/ENDORSEMENT_REFUSED")
UNPROVEN = refused("the new key did not sign this", "PERMISSION_DENIED/POSSESSION_UNPROVEN")
LIFETIME = refused("the policy allows no such time", "FAILED_PRECONDITION/KEY_LIFETIME_REFUSED", ok=True)
OTHER_SUITE = refused("the signature beside it has not the length of that suite", invalid("key_request.possession"))
SIGN_IN_RULES = {
    "sign_in": Rule(one_of()),
    "sign_in.one_time_code": Rule(form(r"(?i)[ -]*[0-7oil]([ -]*[0-9a-hjkmnp-tv-zoil]){25}[ -]*"), SIGN_IN),
    "sign_in.id_token": Rule(form(r"(?=.{1,8192}$)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}"), SIGN_IN),
    "sign_in.open": Rule(lambda value: value == {}, named="sign_in"),
}
FINGERPRINT_OR_NONE = Rule(size(0, 32))
NOT_FOUND = refused("there is no such user", "NOT_FOUND/USER_NOT_FOUND", ok=True)
USERNAMES = {
    "usernames": Rule(lambda value: 1 <= len(value) <= 100 and len(set(value)) == len(value)),
    "usernames[]": Rule(username, OK | refused("it stands there already", invalid("usernames"))),
}
SEQUENCE = Rule(number(0), refused("the CA has not come that far", "OUT_OF_RANGE/SEQUENCE_AHEAD", ok=True))


def key_request_rules(*kinds: keys_pb.KeyRequestKind.ValueType) -> dict[str, Rule]:
    """Return the rules of a key request of these kinds, but for what its parent concerns."""
    fields = {
        "realm": Rule(one_of(REALM)),
        "username": Rule(username, NONCE),
        "device_id": Rule(device_id, NONCE),
        "suite": Rule(one_of(1, 2), OTHER_SUITE | OK),
        "public_key_der": Rule(one_of(public_key_der(pooled_key(WEAK, 9))), UNPROVEN),
        "expire_time": Rule(number(), LIFETIME),
        "kind": Rule(one_of(*kinds), TAKEN | OK),
        "epoch": Rule(number(1, 2**32 - 1), TAKEN | OK),
        "revision": Rule(number(), TAKEN | OK),
        "ca_nonce": Rule(
            size_between(1, 128), refused("it is none of this CA", "FAILED_PRECONDITION/NONCE_EXPIRED", ok=True)
        ),
    }
    return {
        "key_request": Rule(one_of()),
        STATEMENT: Rule(statement(keys_pb.KeyRequest, REALM), UNPROVEN),
        "key_request.possession": Rule(size(128), UNPROVEN),
        **{f"{STATEMENT}.{name}": rule for name, rule in fields.items()},
    }


def key_request_kind(kind: keys_pb.KeyRequestKind.ValueType) -> dict[str, Rule]:
    """Return the rule of how a key enters, where there is one way alone."""
    return {f"{STATEMENT}.kind": Rule(one_of(kind))}


ENROLL_RULES = {
    **SIGN_IN_RULES,
    **key_request_rules(keys_pb.KEY_REQUEST_KIND_ENROLL, keys_pb.KEY_REQUEST_KIND_RESET),
    "key_request.endorsement": Rule(size(0)),
    f"{STATEMENT}.parent_fingerprint": Rule(size(0)),
}
RENEW_RULES = {
    **key_request_rules(keys_pb.KEY_REQUEST_KIND_RENEW),
    "key_request.endorsement": Rule(size(128, 384), UNENDORSED),
    f"{STATEMENT}.parent_fingerprint": Rule(size(32), UNENDORSED),
    f"{STATEMENT}.epoch": Rule(number(1, 2**32 - 1), UNENDORSED | OK),
    f"{STATEMENT}.revision": Rule(number(), UNENDORSED | TAKEN | OK),
}
APPROVE_RULES = RENEW_RULES | key_request_kind(keys_pb.KEY_REQUEST_KIND_APPROVE)
NOT_NEEDED = refused("the user has no device", "FAILED_PRECONDITION/RESET_NOT_NEEDED", ok=True)
BOUNDS = {STATEMENT: (8 * 1024, invalid(STATEMENT))}


def bad_public_keys(good: bytes) -> list[bytes]:
    """Return what is nearly the public key of a weak device."""
    numbers = pooled_key(WEAK, 9).public_key().public_numbers()
    private = pooled_key(WEAK, 9)
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    pkcs1 = (serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    pem = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    exponent_3 = rsa.RSAPublicNumbers(3, numbers.n).public_key().public_bytes(*spki)
    return [
        public_key_der(private),
        good[: len(good) // 2],
        good + b"\0",
        good.replace(b"\x02\x03\x01\x00\x01", b"\x02\x01\x01"),
        good.replace(b"\x02\x03\x01\x00\x01", b"\x02\x03\x01\x00\x00"),
        good[:-6] + bytes([good[-6] & 0xFE]) + good[-5:],
        b"\x30\x84\xff\xff\xff\xff" + good,
        exponent_3,
        private.public_key().public_bytes(*pkcs1),
        private.public_key().public_bytes(*pem),
        rsa.generate_private_key(65537, 2048).public_key().public_bytes(*spki),
        public_key_der(pooled_key(STRONG, 0)),
        ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(*spki),
        ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*spki),
    ]


class FreshKeys(KeyPool):
    """Makes keys: more are used than the pool has, and small ones are quickly made."""

    def __call__(self, suite: Suite = WEAK) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(65537, suite.key_bits)


class Requests:
    """Makes requests that the CA accepts, each of a user of its own."""

    def __init__(self, ca: CaUnderTest, names: Iterator[str]) -> None:
        self._ca = ca
        self._names = names
        self._pair: DeviceKeyPair
        self._old: DeviceKeyPair | None = None
        self._approvals = itertools.count()

    async def enroll(self) -> pb.EnrollRequest:
        self._pair, request = await self._ca.enroll_request(next(self._names))
        return request

    async def renew(self) -> pb.RenewRequest:
        self._old = await self._ca.enroll(next(self._names))
        self._pair, request = await self._ca.renew_request(self._old)
        return request

    async def approve(self) -> pb.ApproveRequest:
        # A weak key never vouches; strong ones are made slowly, and a user has so many devices and no more.
        if next(self._approvals) % MOST_APPROVALS == 0:
            self._old = await self._ca.enroll(next(self._names), suite=STRONG)
        assert self._old is not None
        self._pair, request = await self._ca.approve_request(self._old)
        return request

    async def request_reset(self) -> pb.RequestResetRequest:
        pair = await self._ca.enroll(next(self._names))
        return pb.RequestResetRequest(username=pair.address.username, sign_in=OPEN)

    async def begin_renewal(self) -> pb.BeginRenewalRequest:
        old = await self._ca.enroll(next(self._names))
        return pb.BeginRenewalRequest(username=old.address.username, device_id=old.address.device_id)

    async def key_info(self) -> info_pb.GetKeyInfoRequest:
        pair = await self._ca.enroll(next(self._names))
        return info_pb.GetKeyInfoRequest(username=pair.address.username, history_from_fingerprint=pair.fingerprint)

    def seal(self, request: Any, path: str) -> None:
        """Sign what was put into the statement, as the holder of the keys would."""
        if not path.startswith(f"{STATEMENT}."):
            return
        signed = request.key_request
        signed.possession = self._pair.suite.sign(self._pair.private_key, KEY_REQUEST, signed.key_request)
        if self._old is not None:
            public_key = keys_pb.KeyRequest.FromString(signed.key_request).public_key_der
            digest = self._old.suite.endorsement_hash(signed.key_request, public_key)
            signed.endorsement = self._old.suite.sign_endorsement(self._old.private_key, digest)


def of_devices(channel: grpc.aio.Channel, ca: CaUnderTest, names: Iterator[str]) -> dict[str, Exchange]:
    """Return the exchanges of the public port."""
    asking, enrolling, renewing, approving = (Requests(ca, names) for _ in range(4))
    user = pb.BeginEnrollmentRequest(username="alice", sign_in=OPEN)
    public_keys = {f"{STATEMENT}.public_key_der": bad_public_keys(public_key_der(pooled_key(WEAK, 8)))}
    codes = {"sign_in.one_time_code": ["0" * 26, "0000-" * 5 + "0", "8" + "0" * 25, "U" * 26, "-" * 60]}
    rules = {"username": Rule(username), "device_id": Rule(device_id)}
    tokens = {"sign_in.id_token": ["e30.e30.c2ln", "e30.e30.", "e30..c2ln", "e30.e30.c2ln.e30.e30", "e30.e30.c2=="]}
    tokens["sign_in.id_token"] += [f"e30.e30.{'A' * (8192 - 8)}", f"e30.e30.{'A' * (8192 - 7)}"]
    extra: dict[str, list[Any]] = {**public_keys, **codes, **tokens}
    named = NAMES[:8]
    trust, begin, enroll, begin_renewal, renew, begin_approval, approve, reset = (
        unary(channel, name) for name in named
    )
    exchanges = (
        Exchange(trust, made(pb.GetRealmTrustRequest()), {"after_sequence": Rule(number(0))}),
        Exchange(begin, made(user), {"username": Rule(username)} | SIGN_IN_RULES, extra=extra),
        Exchange(enroll, enrolling.enroll, ENROLL_RULES, enrolling.seal, extra, BOUNDS),
        Exchange(begin_renewal, asking.begin_renewal, rules),
        Exchange(renew, renewing.renew, RENEW_RULES, renewing.seal, extra, BOUNDS),
        Exchange(begin_approval, made(pb.BeginApprovalRequest(username="alice")), {"username": Rule(username)}),
        Exchange(approve, approving.approve, APPROVE_RULES, approving.seal, extra, BOUNDS),
        Exchange(reset, asking.request_reset, {"username": Rule(username, NOT_NEEDED)} | SIGN_IN_RULES, extra=extra),
    )
    return dict(zip(named, exchanges, strict=True)) | ca_statements.of_statements(channel, ca, names)


def of_directories(channel: grpc.aio.Channel, ca: CaUnderTest, names: Iterator[str]) -> dict[str, Exchange]:
    """Return the exchanges of the internal port."""
    one, batch, watch = (DIRECTORIES + name for name in ("GetKeyInfo", "BatchGetKeyInfo", "WatchKeyEvents"))
    rules = {"username": Rule(username, NOT_FOUND), "history_from_fingerprint": FINGERPRINT_OR_NONE}
    usernames = made(info_pb.BatchGetKeyInfoRequest(usernames=["nobody", "x", "y@example.org"]))
    start = made(info_pb.WatchKeyEventsRequest(after_sequence=0))
    return {
        one: Exchange(unary(channel, one), Requests(ca, names).key_info, rules),
        batch: Exchange(unary(channel, batch), usernames, USERNAMES),
        watch: Exchange(watching(channel, watch), start, {"after_sequence": SEQUENCE}),
    }


@contextlib.asynccontextmanager
async def open_surface(folder: Path) -> AsyncIterator[Surface]:
    """Serve a CA and return its surface."""
    names = (f"user{number}" for number in itertools.count())
    async with open_ca(folder, **UNLIMITED) as ca:
        ca.keys = FreshKeys()
        root = grpc.ssl_channel_credentials((folder / "public-root.pem").read_bytes())
        internal = f"127.0.0.1:{ca.service.internal_port}"
        access = ca.access()
        pair = access.certificate_pem, access.private_key_pem
        async with (
            grpc.aio.secure_channel(f"127.0.0.1:{ca.service.public_port}", root) as devices,
            internal_channel(internal, settings_for(folder, "directory"), "ca") as directory,
            mutual_tls_channel(internal, "ca", *pair, access.root_pem) as administrator,
        ):
            exchanges = of_devices(devices, ca, names) | of_directories(directory, ca, names)
            exchanges |= ca_administration.of_administrators(administrator, ca, names)
            yield Surface(exchanges | health.exchanges_of(devices), ca.output)
