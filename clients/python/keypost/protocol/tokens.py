"""Tokens by which a device shows who calls: short-lived JWTs under its own key (docs/spec.md, "Tokens"; RFC 7519)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jwt import InvalidSignatureError, PyJWS, PyJWTError
from jwt.algorithms import RSAAlgorithm, RSAPSSAlgorithm

from keypost.clock import MINUTE, SECOND
from keypost.protocol.errors import TokenRefusedError
from keypost.protocol.identifiers import Address

if TYPE_CHECKING:
    from keypost.protocol.key_info import Key
    from keypost.protocol.key_requests import DeviceKeyPair

LONGEST_LIFETIME = 10 * MINUTE
LEEWAY = 5 * MINUTE
MOST_TOKEN_CHARACTERS = 4096
FINGERPRINT_HEX = 64


class _Rs256(RSAAlgorithm):
    def check_key_length(self, key: object) -> None:
        """Leave the key's size to its suite: the weak one is weak knowingly, and refused elsewhere unless allowed."""


def _signatures() -> PyJWS:
    signatures = PyJWS(algorithms=[])
    signatures.register_algorithm("PS256", RSAPSSAlgorithm(RSAAlgorithm.SHA256))
    signatures.register_algorithm("RS256", _Rs256(RSAAlgorithm.SHA256))
    return signatures


_JWS = _signatures()


@dataclass(frozen=True)
class TokenClaim:
    """Who a token claims to come from: unverified, good for looking up the key alone."""

    address: Address
    fingerprint: bytes


def audience_of(realm: str, service: str) -> str:
    """Return the audience of tokens for a service, such as ``example.org/delivery``."""
    return f"{realm}/{service}"


def mint_token(key_pair: DeviceKeyPair, audience: str, now: int, lifetime: int = LONGEST_LIFETIME) -> str:
    """Return a token for one service.

    Args:
        key_pair: The device's current key pair.
        audience: See :func:`audience_of`.
        now: Unix milliseconds.
        lifetime: Milliseconds, at most ten minutes.
    """
    issued = now // SECOND
    claims = {"aud": audience, "sub": str(key_pair.address), "iat": issued, "exp": issued + lifetime // SECOND}
    payload = json.dumps(claims, separators=(",", ":")).encode()
    headers = {"kid": key_pair.fingerprint.hex()}
    return _JWS.encode(payload, key_pair.private_key, algorithm=key_pair.suite.jwt_algorithm, headers=headers)


def peek_token(token: str) -> TokenClaim:
    """Return who a token claims to come from, without verifying anything.

    Raises:
        TokenRefusedError: MALFORMED.
    """
    _check_length(token)
    try:
        decoded = _JWS.decode_complete(token, options={"verify_signature": False})
        kid, sub = decoded["header"]["kid"], json.loads(decoded["payload"])["sub"]
        if not isinstance(kid, str) or len(kid) != FINGERPRINT_HEX or not isinstance(sub, str):
            raise TokenRefusedError("MALFORMED")
        return TokenClaim(Address.parse(sub), bytes.fromhex(kid))
    except (PyJWTError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise TokenRefusedError("MALFORMED") from error


def _check_length(token: str) -> None:
    if len(token) > MOST_TOKEN_CHARACTERS:
        raise TokenRefusedError("MALFORMED")


def verify_token(token: str, key: Key, audience: str, now: int) -> int:
    """Verify a token and return when it ends, Unix milliseconds.

    Whether ``key`` may act at all is :func:`keypost.protocol.validity.check_can_act`'s to say.

    Args:
        token: The token.
        key: The key, from the record of the user that the token claims.
        audience: The one audience that is right.
        now: Unix milliseconds.

    Raises:
        TokenRefusedError: MALFORMED, WRONG_KEY, BAD_SIGNATURE, WRONG_AUDIENCE, NOT_YET_VALID, EXPIRED, LIVES_TOO_LONG.
    """
    _check_key(peek_token(token), key)
    claims = _verified_claims(token, key)
    _check_audience(claims, audience)
    issued, expires = _times(claims)
    _check_lifetime(issued, expires)
    _check_issued(issued, now)
    _check_unexpired(expires, now)
    return expires


def _check_key(claim: TokenClaim, key: Key) -> None:
    if claim.address != key.address or claim.fingerprint != key.fingerprint:
        raise TokenRefusedError("WRONG_KEY")


def _check_audience(claims: dict[str, Any], audience: str) -> None:
    # Exactly one string: a list would let one service replay the token at another.
    if claims.get("aud") != audience:
        raise TokenRefusedError("WRONG_AUDIENCE")


def _times(claims: dict[str, Any]) -> tuple[int, int]:
    """Return when the token was issued and when it ends, Unix milliseconds."""
    issued, expires = claims.get("iat"), claims.get("exp")
    if type(issued) is not int or type(expires) is not int:
        raise TokenRefusedError("MALFORMED")
    return issued * SECOND, expires * SECOND


def _check_lifetime(issued: int, expires: int) -> None:
    if expires - issued > LONGEST_LIFETIME:
        raise TokenRefusedError("LIVES_TOO_LONG")


def _check_issued(issued: int, now: int) -> None:
    if issued > now + LEEWAY:
        raise TokenRefusedError("NOT_YET_VALID")


def _check_unexpired(expires: int, now: int) -> None:
    if expires <= now:
        raise TokenRefusedError("EXPIRED")


def _algorithms(key: Key) -> list[str]:
    """Return the one algorithm that a key signs tokens by; what the token says of itself does not count."""
    return [key.suite.jwt_algorithm]


def _verified_claims(token: str, key: Key) -> dict[str, Any]:
    try:
        payload = _JWS.decode(token, key.public_key, algorithms=_algorithms(key))
    except InvalidSignatureError as error:
        raise TokenRefusedError("BAD_SIGNATURE") from error
    except PyJWTError as error:
        raise TokenRefusedError("MALFORMED") from error
    # peek_token has seen that it is an object. The times are checked against the clock that is passed in.
    claims: dict[str, Any] = json.loads(payload)
    return claims
