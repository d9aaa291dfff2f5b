"""Finds out who calls, and refuses whom the method table does not admit (docs/spec.md, "Who may call")."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from keypost.protocol.errors import TokenRefusedError
from keypost.protocol.key_info import GOOD, SUPERSEDED
from keypost.protocol.tokens import peek_token, verify_token
from keypost_services.runtime.auth import Caller, CallerKind
from keypost_services.runtime.buckets import peer_address
from keypost_services.runtime.errors import ServiceError, method_not_admitted, rate_limited, token_refused
from keypost_services.runtime.identity import Role, identity_of, public_key_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keypost.clock import Clock
    from keypost.protocol.key_info import Key
    from keypost.protocol.tokens import TokenClaim
    from keypost_services.runtime.auth import DeviceKeys, FoundKey
    from keypost_services.runtime.buckets import Buckets
    from keypost_services.runtime.callers import VerifiedCallers
    from keypost_services.runtime.method_table import Callers
    from keypost_services.runtime.proxies import TrustedProxies

ATTEMPTS = 3
_BEARER = "bearer "


@dataclass(frozen=True)
class Peer:
    """What the transport knows of a caller.

    Attributes:
        address: As gRPC writes it; of who called, where a proxy is trusted to say who did.
        certificate_pem: The verified certificate, on the internal port.
        authorizations: The values of the ``authorization`` header.
    """

    address: str
    certificate_pem: bytes | None
    authorizations: tuple[str, ...]

    @classmethod
    def of(cls, context: Any, metadata: Sequence[tuple[str, str | bytes]], proxies: TrustedProxies) -> Peer:
        """Return the peer of a gRPC call with this metadata."""
        certificates = list(context.auth_context().get("x509_pem_cert", ()))
        # Whoever has shown a certificate is at the other end: nobody stands between.
        address = context.peer() if certificates else proxies.caller_of(context.peer(), metadata)
        headers = [value for name, value in metadata if name == "authorization"]
        texts = tuple(value if isinstance(value, str) else "" for value in headers)
        return cls(address, certificates[0] if certificates else None, texts)


class Authenticator:
    """Admits callers by the method table.

    Args:
        realm: The realm.
        audience: The one audience that tokens for this service have.
        methods: Whom each method admits; a method that is missing admits nobody.
        callers: Remembers whom it has verified.
        lookups: Limits, for each network address, the look-ups for tokens that turn out to be bad.
        anonymous: Limits, for each network address, the calls of methods that admit anyone.
        device_keys: Where keys are looked up; None: no device is admitted.
        clock: The time.
    """

    def __init__(
        self,
        *,
        realm: str,
        audience: str,
        methods: Mapping[str, Callers],
        callers: VerifiedCallers,
        lookups: Buckets,
        anonymous: Buckets,
        device_keys: DeviceKeys | None,
        clock: Clock,
    ) -> None:
        self._realm = realm
        self._audience = audience
        self._methods = methods
        self._callers = callers
        self._lookups = lookups
        self._anonymous = anonymous
        self._device_keys = device_keys
        self._clock = clock

    def knows(self, method: str) -> bool:
        """Whether the table lists ``method``."""
        return method in self._methods

    async def admit(self, method: str, peer: Peer) -> Caller:
        """Return the caller, if the method admits it.

        Raises:
            ServiceError: PERMISSION_DENIED with METHOD_NOT_ADMITTED; UNAUTHENTICATED with TOKEN_REFUSED or
                SERVICE_CERTIFICATE_REFUSED; RESOURCE_EXHAUSTED with RATE_LIMITED; what the look-up of the key raises.
        """
        callers = self._methods.get(method)
        if callers is None:
            raise method_not_admitted()
        if peer.certificate_pem is not None:
            return self._admit_certificate(callers, peer, peer.certificate_pem)
        if callers.anyone:
            return self._admit_anyone(peer)
        _check_devices_admitted(callers)
        if self._device_keys is None:
            raise method_not_admitted()
        return await self._admit_device(self._device_keys, peer)

    async def check_again(self, caller: Caller) -> int | None:
        """Raise if the key of a device is no longer good, or its record can no longer be had.

        Returns:
            Until when this may be relied upon, Unix milliseconds; None: there is nothing that could end.

        Raises:
            ServiceError: UNAUTHENTICATED with TOKEN_REFUSED; what the look-up of the key raises.
        """
        if caller.address is None or caller.key is None or self._device_keys is None:
            return None
        found = await self._usable_key(self._device_keys, caller.address.username, caller.key.fingerprint)
        return _until(found)

    def _admit_anyone(self, peer: Peer) -> Caller:
        if wait_ms := self._anonymous.take(peer_address(peer.address)):
            raise rate_limited("calls from this address", wait_ms)
        return Caller(CallerKind.ANYONE, peer.address)

    def _admit_certificate(self, callers: Callers, peer: Peer, certificate_pem: bytes) -> Caller:
        identity = identity_of(certificate_pem, self._realm)
        if identity.role is Role.SERVICE:
            _check_service_admitted(callers, identity.name)
            return Caller(CallerKind.SERVICE, peer.address, service=identity.name)
        _check_administrators_admitted(callers)
        public_key_der = public_key_of(certificate_pem)
        return Caller(
            CallerKind.ADMINISTRATOR, peer.address, administrator=identity.name, public_key_der=public_key_der
        )

    async def _admit_device(self, device_keys: DeviceKeys, peer: Peer) -> Caller:
        token = _token_of(peer)
        token_hash = hashlib.sha256(token.encode()).digest()
        if (caller := self._callers.find(token_hash)) is not None:
            return caller if caller.peer == peer.address else replace(caller, peer=peer.address)
        claim = _claim(token)
        address = peer_address(peer.address)
        if wait_ms := self._lookups.take(address):
            raise rate_limited("tokens from this address that have to be looked up", wait_ms)
        caller = await self._verify(device_keys, token, claim, peer)
        # Only what turned out to be bad counts against the address.
        self._lookups.give_back(address)
        self._callers.remember(token_hash, caller)
        return caller

    async def _verify(self, device_keys: DeviceKeys, token: str, claim: TokenClaim, peer: Peer) -> Caller:
        username, fingerprint = claim.address.username, claim.fingerprint
        for _ in range(ATTEMPTS):
            with self._callers.verification(username, fingerprint) as verification:
                found = await self._usable_key(device_keys, username, fingerprint)
            if not verification.dropped:
                break
        else:
            raise ServiceError(
                StatusCode.UNAVAILABLE, "KEYS_CHANGING", "the caller's keys are changing", retry_after_ms=1_000
            )
        try:
            expire_time = verify_token(token, found.key, self._audience, self._clock())
        except TokenRefusedError as error:
            raise token_refused(error.metadata["cause"]) from error
        key, expire_time = found.key, min(expire_time, _until(found))
        return Caller(CallerKind.DEVICE, peer.address, key.address, key, expire_time=expire_time)

    async def _usable_key(self, device_keys: DeviceKeys, username: str, fingerprint: bytes) -> FoundKey:
        try:
            found = await device_keys.find_device_key(username, fingerprint)
        except TokenRefusedError as error:
            raise token_refused(error.metadata["cause"]) from error
        except ServiceError as error:
            # Whether a user exists is nobody's business before the token is verified.
            raise (token_refused("UNKNOWN_KEY") if error.code is StatusCode.NOT_FOUND else error) from error
        _check_good(found.key)
        _check_unexpired(found.key, self._clock())
        return found


def _until(found: FoundKey) -> int:
    """Return until when a key may be relied upon without another look at its record."""
    return min(found.key.expire_time, found.next_update)


def _check_devices_admitted(callers: Callers) -> None:
    if not callers.devices:
        raise method_not_admitted()


def _check_service_admitted(callers: Callers, service: str) -> None:
    if not callers.anyone and service not in callers.services:
        raise method_not_admitted()


def _check_good(key: Key) -> None:
    if key.state != GOOD:
        raise token_refused("KEY_SUPERSEDED" if key.state == SUPERSEDED else "KEY_REVOKED")


def _check_unexpired(key: Key, now: int) -> None:
    if now >= key.expire_time:
        raise token_refused("KEY_EXPIRED")


def _check_administrators_admitted(callers: Callers) -> None:
    if not callers.anyone and not callers.administrators:
        raise method_not_admitted()


def _token_of(peer: Peer) -> str:
    if not peer.authorizations:
        raise token_refused("MISSING")
    if len(peer.authorizations) > 1 or not peer.authorizations[0].lower().startswith(_BEARER):
        raise token_refused("MALFORMED")
    return peer.authorizations[0][len(_BEARER) :].strip()


def _claim(token: str) -> TokenClaim:
    try:
        return peek_token(token)
    # A deeply nested token may exhaust the parser; that is its sender's doing, not a fault of the service.
    except (TokenRefusedError, RecursionError) as error:
        raise token_refused("MALFORMED") from error
