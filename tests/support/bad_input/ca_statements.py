"""The CA's methods that take a signed statement which is no key request, with what may stand in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.encoding import RESET_CANCELLATION, REVOCATION
from support.bad_input.rules import (
    OK,
    Rule,
    device_id,
    invalid,
    number,
    one_of,
    refused,
    size,
    statement,
    username,
)
from support.bad_input.surface import Exchange, unary
from support.ca_service import REALM

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc.aio

    from keypost.ca.v1 import ca_service_pb2 as pb
    from keypost.protocol.key_requests import DeviceKeyPair
    from support.ca_service import CaUnderTest

NAMES = tuple(f"/keypost.ca.v1.CertificateAuthorityService/{name}" for name in ("Revoke", "CancelReset"))
REVOKED, CANCELLED = "revocation.revocation", "cancellation.reset_cancellation"
MOST_BYTES = 8 * 1024
TAKEN = refused("the record has another revision", "ABORTED/REVISION_TAKEN")
UNSIGNED = refused("no key of that user signed this", "PERMISSION_DENIED/REVOCATION_REFUSED")
UNCANCELLED = refused("no key of that device signed this", "PERMISSION_DENIED/RESET_CANCELLATION_REFUSED")
NO_SUCH_KEY = refused("there is no such key of that device", "FAILED_PRECONDITION/KEY_ENDED")
AHEAD = refused("it is still to come", invalid(f"{REVOKED}.since_time"))
REASONS = (keys_pb.REVOCATION_REASON_RETIRED, keys_pb.REVOCATION_REASON_LOST, keys_pb.REVOCATION_REASON_COMPROMISED)
NOT_SINCE = refused("this reason has no such time", invalid(f"{REVOKED}.since_time"))

REVOKE_RULES = {
    "revocation": Rule(one_of()),
    REVOKED: Rule(statement(keys_pb.Revocation, REALM), UNSIGNED),
    f"{REVOKED}.realm": Rule(one_of(REALM)),
    f"{REVOKED}.username": Rule(username, UNSIGNED),
    f"{REVOKED}.device_id": Rule(device_id, NO_SUCH_KEY),
    f"{REVOKED}.fingerprint": Rule(size(32), NO_SUCH_KEY),
    f"{REVOKED}.reason": Rule(one_of(*REASONS), NOT_SINCE | OK),
    f"{REVOKED}.revision": Rule(number(), TAKEN | OK),
    f"{REVOKED}.since_time": Rule(number(0), AHEAD | OK),
    "revocation.signature": Rule(size(128, 384), UNSIGNED),
    "revocation.signer_fingerprint": Rule(size(32), UNSIGNED),
}
CANCEL_RULES = {
    "cancellation": Rule(one_of()),
    CANCELLED: Rule(statement(keys_pb.ResetCancellation, REALM), UNCANCELLED),
    f"{CANCELLED}.realm": Rule(one_of(REALM)),
    f"{CANCELLED}.username": Rule(username, UNCANCELLED),
    f"{CANCELLED}.device_id": Rule(device_id, UNCANCELLED),
    f"{CANCELLED}.revision": Rule(number(), TAKEN | OK),
    "cancellation.signature": Rule(size(128, 384), UNCANCELLED),
    "cancellation.signer_fingerprint": Rule(size(32), UNCANCELLED),
}


class Statements:
    """Makes statements that the CA accepts, each of a user of its own."""

    def __init__(self, ca: CaUnderTest, names: Iterator[str]) -> None:
        self._ca = ca
        self._names = names
        self._pair: DeviceKeyPair

    async def revoke(self) -> pb.RevokeRequest:
        self._pair = await self._ca.enroll(next(self._names))
        compromised = {"reason": keys_pb.REVOCATION_REASON_COMPROMISED, "since_time": self._ca.clock()}
        return await self._ca.revoke_request(self._pair, **compromised)

    async def cancel(self) -> pb.CancelResetRequest:
        self._pair = await self._ca.enroll(next(self._names))
        await self._ca.request_reset(self._pair.address.username)
        return await self._ca.cancel_request(self._pair)

    def seal_revocation(self, request: Any, path: str) -> None:
        """Sign what was put into the revocation."""
        if path.startswith(f"{REVOKED}."):
            signed = request.revocation
            signed.signature = self._pair.suite.sign(self._pair.private_key, REVOCATION, signed.revocation)

    def seal_cancellation(self, request: Any, path: str) -> None:
        """Sign what was put into the cancellation."""
        if path.startswith(f"{CANCELLED}."):
            signed = request.cancellation
            signed.signature = self._pair.suite.sign(
                self._pair.private_key, RESET_CANCELLATION, signed.reset_cancellation
            )


def of_statements(channel: grpc.aio.Channel, ca: CaUnderTest, names: Iterator[str]) -> dict[str, Exchange]:
    """Return the exchanges of these methods."""
    revoking, cancelling = (Statements(ca, names) for _ in range(2))
    revoke, cancel = (unary(channel, name) for name in NAMES)
    bounds = ({REVOKED: (MOST_BYTES, invalid(REVOKED))}, {CANCELLED: (MOST_BYTES, invalid(CANCELLED))})
    exchanges = (
        Exchange(revoke, revoking.revoke, REVOKE_RULES, revoking.seal_revocation, bounds=bounds[0]),
        Exchange(cancel, cancelling.cancel, CANCEL_RULES, cancelling.seal_cancellation, bounds=bounds[1]),
    )
    return dict(zip(NAMES, exchanges, strict=True))
