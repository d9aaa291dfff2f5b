"""Enrolment: a first key pair, published to the CA (step 1)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from keypost.ca.v1 import ca_service_pb2
from keypost.client.arguments import nonce_of
from keypost.client.key_requests import (
    BEGIN_ANEW,
    INVITATION,
    KEY_WEAK,
    NO_DEVICE,
    fill_request,
    generate,
    request_key,
    unasked,
    warn_if_weak,
    write_pending,
)
from keypost.errors import InvalidArgumentError, KeypostError, RefusedError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import SuiteRefusedError
from keypost.protocol.identifiers import Address, check_username
from keypost.protocol.negotiation import step_1_publish_public_key

if TYPE_CHECKING:
    from keypost.client.context import Context
    from keypost.client.first_key import FirstKey
    from keypost.client.identity import Identity
    from keypost.client.records import Records
    from keypost.client.trusting import Trust
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost.protocol.suites import Suite
    from keypost.transport.ca_client import CaClient

ASK_ANEW = BEGIN_ANEW | {KEY_WEAK, "APPROVAL_REQUIRED"}
"""Refusals of a request that was made before: another one may pass, since a reset can have come due meanwhile."""


class Enrolling:
    """Has the first key of this device recorded.

    Args:
        context: What all parts share.
        identity: The own device.
        ca: The CA.
        records: Where the own record is verified and kept.
        trust: The realm's trust.
        first_key: Makes the recorded pair the current one.
    """

    def __init__(
        self,
        context: Context,
        identity: Identity,
        ca: CaClient,
        records: Records,
        trust: Trust,
        first_key: FirstKey,
    ) -> None:
        self._context = context
        self._identity = identity
        self._ca = ca
        self._records = records
        self._trust = trust
        self._first_key = first_key

    async def enroll(self, username: str, code: str | None, id_token: str | None, suite: Suite) -> Address:
        """Enrol this device for ``username`` and return its address; see Client.enroll."""
        check_username(username)
        await self._records.stopping.check_not_stolen()
        await self.check_suite(suite)
        await self._finish_other(username, suite)
        ring = self._identity.ring
        if ring.address is not None:
            if ring.address.username != username:
                raise _is_another(ring.address, username)
            if ring.current is not None:
                return ring.address
        sign_in = _sign_in(code, id_token)
        pair = await self._resumable(username, suite)
        if id_token is not None:
            _check_nonce(id_token, pair)
        if pair is not None and (address := await self._repeat(pair, sign_in)) is not None:
            return address
        return await self._begin(username, sign_in, suite, pair)

    async def nonce(self, username: str, suite: Suite) -> str:
        """Return the nonce for an ID token by which ``username`` is to be enrolled; see Client.sign_in_nonce."""
        await self.check_suite(suite)
        await self._finish_other(username, suite)
        ring = self._identity.ring
        if ring.address is not None and (ring.current is not None or ring.address.username != username):
            raise _is_another(ring.address, username)
        pair = await self._resumable(username, suite)
        if pair is None:
            pair = await generate(self._context, Address(username, NO_DEVICE), suite)
            await write_pending(self._context, pair, unasked(self._context, pair))
            await self._identity.reload()
        return pair.fingerprint.hex()

    async def request_reset(self, username: str, code: str | None, id_token: str | None) -> int:
        """Announce an identity reset, and return from when on it may take place; see Client.request_reset."""
        return (await self._ca.request_reset(username, _sign_in(code, id_token))).reset_time

    async def resume(self) -> None:
        """Finish an enrolment whose answer was lost, if the CA has recorded the pending key."""
        ring = self._identity.ring
        if ring.current is not None or ring.pending is None or await self._asked() is None:
            return
        try:
            record = await self._records.get_as_pending(ring.pending.address.username)
            await self._first_key.finish(ring.pending, record)
        except KeypostError:
            # Not recorded, or nobody to ask: the next enroll() goes on from here.
            return

    async def check_suite(self, suite: Suite) -> None:
        """Accept a suite for the own key.

        Raises:
            SuiteRefusedError: it is below the minimum, or not allowed in the realm.
        """
        trust = await self._trust.current()
        if suite.strength < self._context.minimum_suite.strength:
            raise SuiteRefusedError(f"{suite.name} is below this client's minimum: {self._context.minimum_suite.name}")
        if suite.id not in trust.constants.allowed_suites:
            raise SuiteRefusedError(f"{suite.name} is not allowed in {trust.realm}")
        warn_if_weak(self._context, suite)

    async def _finish_other(self, username: str, suite: Suite) -> None:
        """Finish what was asked for another user, or another suite, if the CA recorded it and only the answer was lost.

        The only copy of a recorded key is not given up for another one.
        """
        ring = self._identity.ring
        pending = ring.pending
        if ring.current is not None or pending is None or await self._asked() is None:
            return
        if (pending.address.username, pending.suite) == (username, suite):
            return
        try:
            record = await self._records.get_as_pending(pending.address.username)
        except RefusedError as refused:
            if refused.retriable:
                raise
            # A key that is not recorded may not ask.
            return
        await self._first_key.finish(pending, record)

    async def _resumable(self, username: str, suite: Suite) -> DeviceKeyPair | None:
        pending = self._identity.ring.pending
        if pending is None or (pending.address.username, pending.suite) != (username, suite):
            return None
        # One that answers an invitation is not the CA's to record by a sign-in.
        note = await self._context.store.run(lambda store: store.profile.note(INVITATION))
        return pending if note is None else None

    async def _repeat(self, pair: DeviceKeyPair, sign_in: ca_service_pb2.SignIn) -> Address | None:
        """Ask again what was asked before a crash: the CA answers as it did, if it did."""
        asked = await self._asked()
        if asked is None:
            return None
        try:
            key_info = await self._ca.enroll(asked, sign_in)
        except RefusedError as refused:
            if refused.reason not in ASK_ANEW:
                raise
            return None
        return await self._learn(pair, key_info)

    async def _asked(self) -> pb.SignedKeyRequest | None:
        """Return the last request for the pending key; None if it was never asked for, and waits for a sign-in."""
        stored = await self._context.store.run(lambda store: store.key_pairs.pending())
        signed = None if stored is None else pb.SignedKeyRequest.FromString(stored.key_request)
        return signed if signed is not None and signed.possession else None

    async def _begin(
        self, username: str, sign_in: ca_service_pb2.SignIn, suite: Suite, pair: DeviceKeyPair | None
    ) -> Address:
        async def ask(begun: ca_service_pb2.BeginEnrollmentResponse) -> pb.KeyInfo:
            nonlocal pair
            address = Address(username, begun.device_id)
            # The nonce is good for the device id that came with it alone; the key pair stays what it is.
            pair = await generate(self._context, address, suite) if pair is None else replace(pair, address=address)
            request = fill_request(self._context, pair, begun, _kind(begun))
            signed = step_1_publish_public_key(request, pair)
            await write_pending(self._context, pair, signed)
            await self._identity.reload()
            return await self._ca.enroll(signed, sign_in)

        key_info = await request_key(
            self._context, self._identity, lambda: self._ca.begin_enrollment(username, sign_in), ask
        )
        return await self._learn(self._identity.pending, key_info)

    async def _learn(self, pair: DeviceKeyPair, key_info: pb.KeyInfo) -> Address:
        return await self._first_key.finish(pair, await self._records.learn(pair.address.username, key_info))


def _is_another(address: Address, username: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"this profile is {address} already: use another profile for {username}", field="username"
    )


def _check_nonce(id_token: str, pair: DeviceKeyPair | None) -> None:
    """Refuse early what the CA would refuse without a word: an ID token that was issued for another key.

    Raises:
        InvalidArgumentError: it was.
    """
    if pair is None or nonce_of(id_token) != pair.fingerprint.hex():
        raise InvalidArgumentError(
            "this ID token was issued for another key: its nonce must be what sign_in_nonce() returns", field="id_token"
        )


def _kind(begun: ca_service_pb2.BeginEnrollmentResponse) -> pb.KeyRequestKind.ValueType:
    """Return how the key is to enter: as a first key, or by an identity reset that was announced and is due."""
    is_reset = begun.kind == pb.KEY_REQUEST_KIND_RESET
    return pb.KEY_REQUEST_KIND_RESET if is_reset else pb.KEY_REQUEST_KIND_ENROLL


def _sign_in(code: str | None, id_token: str | None) -> ca_service_pb2.SignIn:
    if code:
        return ca_service_pb2.SignIn(one_time_code=code)
    if id_token:
        return ca_service_pb2.SignIn(id_token=id_token)
    return ca_service_pb2.SignIn(open=ca_service_pb2.OpenSignIn())
