"""What enrolment and renewal share: the fields of a key request, and the pair that waits for the CA's answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from keypost.ca.v1 import ca_service_pb2
from keypost.clock import DAY
from keypost.errors import KeypostError, RefusedError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.invitations import read_invitation
from keypost.protocol.realm_trust import CLOCK_SKEW
from keypost.protocol.renewal import step_1_generate_key_pair
from keypost.protocol.rsa import private_key_to_der

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.keystore.port import KeyStore
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost.protocol.suites import Suite

LIFETIME = 90 * DAY
NO_DEVICE = "a" * 16
"""Stands for a device id that the CA has not drawn yet."""
ROUNDS = 5
"""How often a request is begun anew when another change took its revision, or its nonce expired."""
BEGIN_ANEW = frozenset({"REVISION_TAKEN", "NONCE_EXPIRED"})
KEY_WEAK = "KEY_WEAK"
INVITATION = "invitation"
"""The note with the invitation that the pending pair answers, as text."""


Begun = (
    ca_service_pb2.BeginEnrollmentResponse | ca_service_pb2.BeginRenewalResponse | ca_service_pb2.BeginApprovalResponse
)
"""What the CA gives out for a request."""
T = TypeVar("T")
B = TypeVar("B", ca_service_pb2.BeginEnrollmentResponse, ca_service_pb2.BeginRenewalResponse)


class ClockWrongError(KeypostError):
    """This machine's clock and the CA's are more than five minutes apart."""

    reason = "CLOCK_WRONG"


async def request_key(
    context: Context,
    identity: Identity,
    begin: Callable[[], Awaitable[B]],
    ask: Callable[[B], Awaitable[pb.KeyInfo]],
) -> pb.KeyInfo:
    """Begin and ask, anew while another change takes the revision; return the CA's answer, unverified.

    Args:
        context: What all parts share.
        identity: The own device, whose pending pair goes if the CA never records such a key.
        begin: Begins at the CA.
        ask: Makes the request from what the CA gave out, writes it down and sends it.

    Raises:
        ClockWrongError: this machine's clock is not the CA's.
        RefusedError: the CA refused.
    """

    async def ask_well(begun: B) -> pb.KeyInfo:
        check_clock(begun, context.clock())
        try:
            return await ask(begun)
        except RefusedError as refused:
            if refused.reason == KEY_WEAK:
                await identity.drop_pending()
            raise

    return await begin_anew(begin, ask_well)


async def begin_anew(begin: Callable[[], Awaitable[B]], ask: Callable[[B], Awaitable[T]]) -> T:
    """Begin and ask, anew while another change takes the revision; return the answer, or raise what else refuses it."""
    for last in range(ROUNDS - 1, -1, -1):
        begun = await begin()
        try:
            return await ask(begun)
        except RefusedError as refused:
            if refused.reason not in BEGIN_ANEW or not last:
                raise
    raise AssertionError


def check_clock(begun: Begun, now: int) -> None:
    """Verify that this machine's clock is the CA's, give or take five minutes.

    Raises:
        ClockWrongError: it is not.
    """
    if abs(begun.current_time - now) > CLOCK_SKEW:
        off = abs(begun.current_time - now) // 1000
        raise ClockWrongError(f"this machine's clock is {off} s off the CA's: set it right, then try again")


async def generate(context: Context, address: Address, suite: Suite) -> DeviceKeyPair:
    """Return a new key pair, generated off the event loop."""
    return await asyncio.to_thread(step_1_generate_key_pair, address, suite, context.generate)


def fill_request(
    context: Context,
    pair: DeviceKeyPair,
    begun: Begun,
    kind: pb.KeyRequestKind.ValueType,
    parent_fingerprint: bytes = b"",
) -> pb.KeyRequest:
    """Return the request for ``pair``, unsigned."""
    return pb.KeyRequest(
        realm=context.realm,
        username=pair.address.username,
        device_id=pair.address.device_id,
        suite=pair.suite.id,
        public_key_der=pair.public_key_der,
        # By the CA's clock: by one that is fast the key would live longer than the realm allows.
        expire_time=begun.current_time + LIFETIME,
        kind=kind,
        parent_fingerprint=parent_fingerprint,
        epoch=begun.epoch,
        revision=begun.next_revision,
        ca_nonce=begun.ca_nonce,
    )


def unasked(context: Context, pair: DeviceKeyPair) -> pb.SignedKeyRequest:
    """Return what stands for the request of a pair for which nothing was asked yet: it says whose it is, unsigned."""
    request = pb.KeyRequest(realm=context.realm, username=pair.address.username, device_id=pair.address.device_id)
    return pb.SignedKeyRequest(key_request=request.SerializeToString())


async def write_pending(context: Context, pair: DeviceKeyPair, signed: pb.SignedKeyRequest) -> None:
    """Write a pair down before the CA is asked to record it; a newer request replaces the one before."""
    await context.store.transact(put_pending, pair, private_key_to_der(pair.private_key), signed.SerializeToString())


def put_pending(store: KeyStore, pair: DeviceKeyPair, private_key_der: bytes, request: bytes) -> None:
    """Put a pair and its request in the place of what is pending; within a transaction."""
    current, pending = store.key_pairs.current(), store.key_pairs.pending()
    if current is not None and current.fingerprint == pair.fingerprint:
        # Another call has found it recorded meanwhile; whoever asks again is answered as before.
        return
    if pending is not None and pending.fingerprint == pair.fingerprint:
        store.key_pairs.set_key_request(pair.fingerprint, request)
        return
    if pending is not None:
        store.key_pairs.destroy(pending.fingerprint)
    _forget_invitation(store)
    store.key_pairs.add_pending(pair.fingerprint, pair.suite.id, private_key_der, request)


def _forget_invitation(store: KeyStore) -> None:
    """Forget the invitation that the former pair answered, and the identity that it named."""
    note = store.profile.note(INVITATION)
    if note is not None:
        store.profile.set_note(INVITATION, None)
        store.records.set_pins(read_invitation(note.decode()).address.username, None)


def warn_if_weak(context: Context, suite: Suite) -> None:
    """Say loudly that a suite is in use that is broken in practice."""
    if suite.strength == 1:
        context.tell(
            "warning",
            "WEAK_SUITE",
            f"{suite.name} is in use: it is the source document's to the letter, and broken in practice; it protects "
            "nothing that matters",
            suite=suite.name,
        )
