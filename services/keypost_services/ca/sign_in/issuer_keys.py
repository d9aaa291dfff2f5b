"""The public keys of an issuer, out of its JSON Web Key Set (RFC 7517): the keys for signatures that we verify by."""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from keypost_services.runtime.errors import SourceAwayError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

MOST_KEYS = 64
MOST_KID_CHARACTERS = 256
RSA_BITS = range(2048, 8193)


@dataclass(frozen=True)
class IssuerKey:
    """A key by which an issuer signs.

    Attributes:
        public_key: The key.
        algorithms: By which of our algorithms it signs; what a token says of itself does not count.
    """

    public_key: PublicKey
    algorithms: tuple[str, ...]


@dataclass(frozen=True)
class _Form:
    """How a kind of key is written.

    Attributes:
        members: The public ones: no others are read, private ones least of all.
        curve: The one that is taken, None where there is no such thing.
        algorithms: By which algorithms such a key signs.
        read: Makes the key of them.
    """

    members: tuple[str, ...]
    curve: str | None
    algorithms: tuple[str, ...]
    read: Callable[[dict[str, Any]], Any]


_FORMS = {
    "RSA": _Form(("kty", "n", "e"), None, ("RS256", "PS256"), RSAAlgorithm.from_jwk),
    "EC": _Form(("kty", "crv", "x", "y"), "P-256", ("ES256",), ECAlgorithm.from_jwk),
    "OKP": _Form(("kty", "crv", "x"), "Ed25519", ("EdDSA",), OKPAlgorithm.from_jwk),
}
ALGORITHMS = tuple(name for form in _FORMS.values() for name in form.algorithms)
"""All algorithms by which an ID token may be signed: asymmetric ones alone."""


def read_keys(document: Any) -> Mapping[str, IssuerKey]:
    """Return the keys of a JSON Web Key Set by their ``kid``; what is not for us to use is left out.

    Raises:
        SourceAwayError: It is no such set, has too many keys, or none that can be used.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > MOST_KEYS:
        raise SourceAwayError(f"the issuer's keys are no set of at most {MOST_KEYS} keys")
    keys: dict[str, IssuerKey] = {}
    for jwk in listed:
        if (key := _read_key(jwk)) is not None:
            keys.setdefault(jwk["kid"], key)
    if not keys:
        raise SourceAwayError("none of the issuer's keys can be used")
    return keys


def _read_key(jwk: Any) -> IssuerKey | None:
    form = _form_of(jwk)
    if form is None or not _is_named(jwk) or jwk.get("use", "sig") != "sig" or jwk.get("crv") != form.curve:
        return None
    algorithms = tuple(name for name in form.algorithms if jwk.get("alg", name) == name)
    try:
        key = form.read({member: jwk[member] for member in form.members})
    except (InvalidKeyError, UnsupportedAlgorithm, KeyError, TypeError, ValueError, binascii.Error, AttributeError):
        return None
    if not algorithms or (isinstance(key, RSAPublicKey) and key.key_size not in RSA_BITS):
        return None
    return IssuerKey(key, algorithms)


def _form_of(jwk: Any) -> _Form | None:
    kind = jwk.get("kty") if isinstance(jwk, dict) else None
    return _FORMS.get(kind) if isinstance(kind, str) else None


def _is_named(jwk: dict[str, Any]) -> bool:
    kid = jwk.get("kid")
    return isinstance(kid, str) and 1 <= len(kid) <= MOST_KID_CHARACTERS
