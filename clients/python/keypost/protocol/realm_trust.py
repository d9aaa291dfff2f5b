"""RealmTrust: which record keys speak for a realm, and the realm's constants (docs/spec.md, "Realm trust")."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keypost.clock import DAY, HOUR, MINUTE
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.encoding import REALM_TRUST, fingerprint, parse
from keypost.protocol.errors import (
    MalformedStatementError,
    TrustRefusedError,
    TrustRegressedError,
    UnknownRecordKeyError,
)
from keypost.protocol.signing import sign_statement, verify_statement
from keypost.protocol.suites import STRONG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.protocol.signing import Signer

CLOCK_SKEW = 5 * MINUTE
MOST_EARLIER = 64
"""How many statements by which root keys handed over are followed at most."""


@dataclass(frozen=True)
class Constants:
    """The realm's times and bounds; durations in milliseconds (see ``RealmConstants`` in the protos)."""

    record_lifetime: int = HOUR
    rotation_period: int = 7 * DAY
    rotation_messages: int = 10_000
    mailbox_age: int = 30 * DAY
    retention: int = 60 * DAY
    longest_key_lifetime: int = 398 * DAY
    renewal_window: int = 180 * DAY
    allowed_suites: tuple[int, ...] = (STRONG.id,)

    @property
    def settle(self) -> int:
        """How long after a change of keys somebody may still act on the record before it."""
        return self.record_lifetime + CLOCK_SKEW

    @property
    def age_limit(self) -> int:
        """How old a session may be when a message under it is opened."""
        return self.rotation_period + self.mailbox_age + self.settle + DAY

    def to_message(self) -> pb.RealmConstants:
        """Return the constants as they stand in the statement."""
        message = pb.RealmConstants()
        for name, value in vars(self).items():
            if name == "allowed_suites":
                message.allowed_suites.extend(value)
            else:
                setattr(message, name, value)
        return message

    @classmethod
    def from_message(cls, message: pb.RealmConstants) -> Constants:
        """Return the constants of a statement.

        Raises:
            MalformedStatementError: a bound is missing or not positive, or no suite is allowed.
        """
        numbers = {name: getattr(message, name) for name in cls.__dataclass_fields__ if name != "allowed_suites"}
        for name, value in numbers.items():
            if value <= 0:
                raise MalformedStatementError(f"the realm constant {name} is not positive")
        if not message.allowed_suites:
            raise MalformedStatementError("the realm allows no suite")
        return cls(**numbers, allowed_suites=tuple(message.allowed_suites))


@dataclass(frozen=True)
class RecordKey:
    """A key by which the CA signs records, and when."""

    public_key_der: bytes
    from_time: int
    until_time: int

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo: 32 bytes."""
        return fingerprint(self.public_key_der)

    def check_in_force(self, now: int) -> None:
        """Raise :class:`UnknownRecordKeyError` unless the realm lists the key for ``now`` (Unix milliseconds)."""
        if not self.from_time <= now < self.until_time:
            raise UnknownRecordKeyError(f"record key {self.fingerprint.hex()[:8]} is not in force now")


@dataclass(frozen=True)
class RealmTrust:
    """A verified RealmTrust statement."""

    realm: str
    sequence: int
    root_keys: tuple[bytes, ...]
    record_keys: tuple[RecordKey, ...]
    constants: Constants
    until_time: int
    signed: pb.SignedRealmTrust = field(repr=False, compare=False)

    def record_key(self, record_key_fingerprint: bytes, now: int) -> RecordKey:
        """Return the record key of this fingerprint.

        Raises:
            UnknownRecordKeyError: the realm does not list it now.
        """
        key = next((key for key in self.record_keys if key.fingerprint == record_key_fingerprint), None)
        if key is None:
            raise UnknownRecordKeyError(f"record key {record_key_fingerprint.hex()[:8]} is not one of {self.realm}'s")
        key.check_in_force(now)
        return key

    def check_current(self, now: int) -> None:
        """Raise :class:`TrustRefusedError` if the statement may no longer be relied upon."""
        if now >= self.until_time:
            raise TrustRefusedError(f"the trust statement of {self.realm} has expired")


def restore_realm_trust(signed: pb.SignedRealmTrust, realm: str) -> RealmTrust:
    """Return a statement that was verified before and kept where nobody else writes.

    Its age is judged where it is used. The root key that signed it may have handed over since.

    Raises:
        MalformedStatementError: it does not parse.
        TrustRefusedError: it is of another realm.
    """
    trust = _parsed(signed)
    _check_realm(trust, realm)
    return trust


def sign_realm_trust(statement: pb.RealmTrust, root: Signer) -> pb.SignedRealmTrust:
    """Return ``statement`` signed by a root key."""
    serialised = statement.SerializeToString(deterministic=True)
    return pb.SignedRealmTrust(
        realm_trust=serialised,
        signature=sign_statement(root, REALM_TRUST, serialised),
        root_key_fingerprint=fingerprint(root.public_key_der),
    )


def read_realm_trust(
    signed: pb.SignedRealmTrust,
    *,
    realm: str,
    root_keys: Sequence[bytes],
    now: int,
    previous: RealmTrust | None = None,
) -> RealmTrust:
    """Verify a trust statement and return it.

    Args:
        signed: The statement and its signature, as received.
        realm: The realm that it must be of.
        root_keys: The bundle's root keys (SubjectPublicKeyInfo, DER), used until there is a ``previous``.
        now: Unix milliseconds.
        previous: The newest statement seen before; its root keys are those that count.

    Raises:
        TrustRefusedError: not signed by a trusted root key, of another realm, or expired.
        TrustRegressedError: older than ``previous``, or different at the same sequence.
        MalformedStatementError: the statement does not parse.
        SignatureInvalidError: the signature is wrong.
    """
    if previous and signed.realm_trust == previous.signed.realm_trust and realm == previous.realm:
        # It was verified when it came first; since then its root may have handed over to another.
        previous.check_current(now)
        return previous
    trust = _signed_by_root(signed, realm, root_keys, previous)
    trust.check_current(now)
    if previous:
        _check_later(trust, previous)
    return trust


def _signed_by_root(
    signed: pb.SignedRealmTrust, realm: str, root_keys: Sequence[bytes], previous: RealmTrust | None
) -> RealmTrust:
    root = _root_key(signed, previous.root_keys if previous else root_keys)
    verify_statement(root, REALM_TRUST, signed.realm_trust, signed.signature)
    trust = _parsed(signed)
    _check_realm(trust, realm)
    return trust


@dataclass(frozen=True)
class ServedTrust:
    """A trust statement as a service hands it out, unverified.

    Attributes:
        signed: The current statement.
        earlier: Statements before it by which root keys handed over, oldest first.
    """

    signed: pb.SignedRealmTrust
    earlier: tuple[pb.SignedRealmTrust, ...] = ()


def follow_realm_trust(
    served: ServedTrust,
    *,
    realm: str,
    root_keys: Sequence[bytes],
    now: int,
    previous: RealmTrust | None = None,
) -> RealmTrust:
    """Verify a trust statement by way of those by which root keys handed over, and return it.

    Earlier statements may have expired: each only has to be signed by a root key of the one before. Those that are not
    needed are passed over: with a ``previous``, what is not later than it; without, what comes before the first one
    that the bundle's root keys signed.

    Args:
        served: The statement and those before it, as received.
        realm: The realm that they must be of.
        root_keys: The bundle's root keys (SubjectPublicKeyInfo, DER), used until there is a ``previous``.
        now: Unix milliseconds.
        previous: The newest statement seen before; its root keys are those that count.

    Raises:
        TrustRefusedError: too many statements; or as :func:`read_realm_trust`, for any of them.
        TrustRegressedError, MalformedStatementError, SignatureInvalidError: as :func:`read_realm_trust`.
    """
    _check_length(served)
    held = previous
    for signed in served.earlier:
        if _is_needed(signed, root_keys, held):
            # Later than what is held, or it would not be needed; and however old: another one speaks for the realm now.
            held = _signed_by_root(signed, realm, root_keys, held)
    return read_realm_trust(served.signed, realm=realm, root_keys=root_keys, now=now, previous=held)


def later_than(served: ServedTrust, sequence: int) -> ServedTrust:
    """Return what whoever holds the statement of this sequence needs of ``served``, which is verified."""
    return ServedTrust(served.signed, tuple(signed for signed in served.earlier if sequence_of(signed) > sequence))


def retires(before: RealmTrust, after: RealmTrust, now: int) -> bool:
    """Whether a statement ends a record key that the one before has in force: its records count no more."""
    listed = {key.fingerprint: key.until_time for key in after.record_keys}
    return any(
        key.from_time <= now < key.until_time and now >= listed.get(key.fingerprint, 0) for key in before.record_keys
    )


def sequence_of(signed: pb.SignedRealmTrust) -> int:
    """Return the sequence that a statement claims.

    Raises:
        MalformedStatementError: the statement does not parse.
    """
    return parse(pb.RealmTrust, signed.realm_trust, "RealmTrust").sequence


def _check_length(served: ServedTrust) -> None:
    if len(served.earlier) > MOST_EARLIER:
        raise TrustRefusedError(f"more than {MOST_EARLIER} trust statements are said to lead to the current one")


def _is_needed(signed: pb.SignedRealmTrust, root_keys: Sequence[bytes], held: RealmTrust | None) -> bool:
    """Whether a statement says more than is known. What it says is not believed for that."""
    if held is not None:
        return sequence_of(signed) > held.sequence
    return signed.root_key_fingerprint in map(fingerprint, root_keys)


def _root_key(signed: pb.SignedRealmTrust, trusted: Sequence[bytes]) -> bytes:
    for key in trusted:
        if fingerprint(key) == signed.root_key_fingerprint:
            return key
    raise TrustRefusedError("the trust statement is not signed by a root key of this realm")


def _check_realm(trust: RealmTrust, realm: str) -> None:
    if trust.realm != realm:
        raise TrustRefusedError(f"the trust statement is of {trust.realm}, not of {realm}")


def _check_later(trust: RealmTrust, previous: RealmTrust) -> None:
    if trust.sequence <= previous.sequence:
        raise TrustRegressedError(f"trust statement {trust.sequence} comes after {previous.sequence} was seen")


def _parsed(signed: pb.SignedRealmTrust) -> RealmTrust:
    message = parse(pb.RealmTrust, signed.realm_trust, "RealmTrust")
    if not message.root_keys or not message.record_keys:
        raise MalformedStatementError("the trust statement lists no root key or no record key")
    return RealmTrust(
        realm=message.realm,
        sequence=message.sequence,
        root_keys=tuple(key.public_key_der for key in message.root_keys),
        record_keys=tuple(RecordKey(key.public_key_der, key.from_time, key.until_time) for key in message.record_keys),
        constants=Constants.from_message(message.constants),
        until_time=message.until_time,
        signed=signed,
    )
