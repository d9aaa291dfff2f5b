"""ID tokens (OpenID Connect Core 1.0, section 3.1.3.7): verified by PyJWT's signature layer, with own claim checks."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from jwt import InvalidSignatureError, PyJWS, PyJWTError
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, RSAPSSAlgorithm

from keypost.clock import HOUR, MINUTE, SECOND
from keypost_services.ca.sign_in.port import SignInRefusedError

if TYPE_CHECKING:
    from keypost_services.ca.sign_in.issuer_keys import IssuerKey

SKEW = MINUTE
"""How far the clocks of CA and issuer may differ."""
MOST_AGE = HOUR
"""How long ago a token may have been issued, however long its issuer lets it live."""
LATEST = 2**40
"""Seconds: no time of a token is beyond it."""
MOST_SUBJECT_CHARACTERS = 255
EMAIL = "email"


def _signatures() -> PyJWS:
    # Nothing that is keyed by a secret is even known here, and so no public key can pass for one.
    signatures = PyJWS(algorithms=[])
    signatures.register_algorithm("RS256", RSAAlgorithm(RSAAlgorithm.SHA256))
    signatures.register_algorithm("PS256", RSAPSSAlgorithm(RSAAlgorithm.SHA256))
    signatures.register_algorithm("ES256", ECAlgorithm(ECAlgorithm.SHA256, SECP256R1))
    signatures.register_algorithm("EdDSA", OKPAlgorithm())
    return signatures


_JWS = _signatures()


@dataclass(frozen=True)
class Expected:
    """What every ID token must say.

    Attributes:
        issuer: Who issued it.
        client_id: For whom.
        username_claim: The claim that is the username.
    """

    issuer: str
    client_id: str
    username_claim: str


@dataclass(frozen=True)
class IdToken:
    """What a verified ID token says.

    Attributes:
        subject: Whom the issuer means by it, for ever.
        username: The claim that is the username.
        nonce: What the client had the issuer put into it; empty if it had nothing.
    """

    subject: str = field(repr=False)
    username: str
    nonce: str = field(repr=False)


def peek_kid(token: str) -> str:
    """Return which key a token names, without verifying anything: good for looking up the key alone.

    Raises:
        SignInRefusedError: MALFORMED or NOT_AN_ID_TOKEN.
    """
    try:
        header = _JWS.get_unverified_header(token)
    except (PyJWTError, ValueError, RecursionError) as error:
        raise SignInRefusedError("MALFORMED") from error
    _check_type(header)
    kid = header.get("kid")
    if not isinstance(kid, str):
        raise SignInRefusedError("NO_KEY_NAMED")
    return kid


def _check_type(header: dict[str, Any]) -> None:
    # An access token (at+jwt) or a logout token of the same issuer shows nobody's sign-in here.
    if str(header.get("typ", "JWT")).upper() != "JWT":
        raise SignInRefusedError("NOT_AN_ID_TOKEN")


def verify_id_token(token: str, key: IssuerKey, expected: Expected, now: int) -> IdToken:
    """Verify a token and return what it says.

    Args:
        token: The token.
        key: The issuer's key that the token names.
        expected: What it must say.
        now: Unix milliseconds.

    Raises:
        SignInRefusedError: It is not signed by that key, or not meant for us, or not now.
    """
    claims = _verified_claims(token, key)
    _check_issuer(claims, expected.issuer)
    _check_audience(claims, expected.client_id)
    _check_party(claims, expected.client_id)
    _check_unexpired(claims, now)
    _check_begun(claims, now)
    _check_age(claims, now)
    _check_email(claims, expected.username_claim)
    return IdToken(_subject(claims), _text(claims, expected.username_claim), _nonce(claims))


def check_nonce(token: IdToken, fingerprint: bytes) -> None:
    """Check that a token was issued for the key that is to be recorded.

    Args:
        token: The verified token.
        fingerprint: The key's, 32 bytes.

    Raises:
        SignInRefusedError: WRONG_NONCE.
    """
    if not hmac.compare_digest(token.nonce.encode(), fingerprint.hex().encode()):
        raise SignInRefusedError("WRONG_NONCE")


def check_username(token: IdToken, username: str) -> None:
    """Check that a token's username is the requested one, to the letter.

    Raises:
        SignInRefusedError: WRONG_USERNAME.
    """
    if token.username != username:
        raise SignInRefusedError("WRONG_USERNAME")


def _verified_claims(token: str, key: IssuerKey) -> dict[str, Any]:
    try:
        claims = json.loads(_JWS.decode(token, key.public_key, algorithms=_algorithms(key)))
    except InvalidSignatureError as error:
        raise SignInRefusedError("BAD_SIGNATURE") from error
    except (PyJWTError, ValueError, RecursionError) as error:
        raise SignInRefusedError("MALFORMED") from error
    if not isinstance(claims, dict):
        raise SignInRefusedError("MALFORMED")
    return claims


def _algorithms(key: IssuerKey) -> list[str]:
    """Return the algorithms that a key signs by; what the token says of itself does not count."""
    return list(key.algorithms)


def _check_issuer(claims: dict[str, Any], issuer: str) -> None:
    if claims.get("iss") != issuer:
        raise SignInRefusedError("WRONG_ISSUER")


def _check_audience(claims: dict[str, Any], client_id: str) -> None:
    audience = claims.get("aud")
    if client_id not in (audience if isinstance(audience, list) else [audience]):
        raise SignInRefusedError("WRONG_AUDIENCE")


def _check_party(claims: dict[str, Any], client_id: str) -> None:
    """Refuse a token that another client asked for, though it may be meant for us too."""
    audience = claims.get("aud")
    several = isinstance(audience, list) and len(audience) > 1
    if (several or "azp" in claims) and claims.get("azp") != client_id:
        raise SignInRefusedError("WRONG_PARTY")


def _check_unexpired(claims: dict[str, Any], now: int) -> None:
    if _time(claims, "exp") + SKEW <= now:
        raise SignInRefusedError("EXPIRED")


def _check_begun(claims: dict[str, Any], now: int) -> None:
    begins = _time(claims, "nbf") if "nbf" in claims else 0
    if max(_time(claims, "iat"), begins) > now + SKEW:
        raise SignInRefusedError("NOT_YET_VALID")


def _check_age(claims: dict[str, Any], now: int) -> None:
    if _time(claims, "iat") + MOST_AGE + SKEW <= now:
        raise SignInRefusedError("TOO_OLD")


def _check_email(claims: dict[str, Any], username_claim: str) -> None:
    # Anybody may have said so of himself unless the issuer has looked.
    if username_claim == EMAIL and claims.get("email_verified") is not True:
        raise SignInRefusedError("EMAIL_UNVERIFIED")


def _time(claims: dict[str, Any], name: str) -> int:
    """Return a time in Unix milliseconds; issuers may write fractions of seconds."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LATEST:
        raise SignInRefusedError("MALFORMED")
    return int(value * SECOND)


def _subject(claims: dict[str, Any]) -> str:
    subject = _text(claims, "sub")
    # It stands in the audit log, where people read it on terminals.
    if not 1 <= len(subject) <= MOST_SUBJECT_CHARACTERS or not subject.isascii() or not subject.isprintable():
        raise SignInRefusedError("MALFORMED")
    return subject


def _text(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        raise SignInRefusedError("CLAIM_MISSING")
    return value


def _nonce(claims: dict[str, Any]) -> str:
    nonce = claims.get("nonce", "")
    if not isinstance(nonce, str) or not nonce.isascii():
        raise SignInRefusedError("MALFORMED")
    return nonce
