"""What takes the place of what sign-in defends by and does more than defend: the same without the defence."""

from __future__ import annotations

import hmac
import json
import ssl
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from grpc import StatusCode
from jwt.utils import base64url_decode

from keypost_services.ca.sign_in import id_tokens
from keypost_services.ca.sign_in.open_sign_in import OpenSignIn
from keypost_services.ca.sign_in.port import Proof, SignInRefusedError
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    import aiohttp

    from keypost_services.ca.sign_in.admission import Admission
    from keypost_services.ca.sign_in.issuer import Issuer
    from keypost_services.ca.sign_in.issuer_keys import IssuerKey
    from keypost_services.ca.sign_in.port import Grant, Kind, SignIn


def whatever_signature(token: str, _key: IssuerKey) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(
        id_tokens._JWS.decode_complete(token, options={"verify_signature": False})["payload"]
    )
    return claims


def by_the_algorithm_that_the_token_names(token: str, key: IssuerKey) -> dict[str, Any]:
    signed, _, signature = token.rpartition(".")
    public = key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if not hmac.compare_digest(base64url_decode(signature), hmac.digest(public, signed.encode(), "sha256")):
        raise SignInRefusedError("BAD_SIGNATURE")
    return whatever_signature(token, key)


def plain_challenge(verifier: str) -> dict[str, str]:
    return {"code_challenge": verifier, "code_challenge_method": "plain"}


async def whichever_key(self: Issuer, _kid: str) -> IssuerKey | None:
    await self._read_once()
    return next(iter(self._keys.values()))


def held_for_ever(self: Issuer, kid: str) -> IssuerKey | None:
    return self._keys.get(kid)


async def ask_each_time(self: Issuer, kid: str) -> IssuerKey | None:
    await self._read_once()
    return self._held(kid)


async def read_for_as_long_as_it_takes(self: Issuer) -> None:
    self._keys = await self._fetch_keys()


def follow(session: aiohttp.ClientSession, url: str) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    return session.get(url)


def every_certificate(_settings: object) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def everybody(self: Admission, kind: Kind) -> SignIn:
    return self._kinds.get(kind, OpenSignIn())


async def tell_why(self: Admission, username: str, proof: Proof, fingerprint: bytes | None) -> Grant:
    try:
        return await self._sign_in(proof.kind).admit(username, proof, fingerprint)
    except SignInRefusedError as refused:
        raise ServiceError(StatusCode.PERMISSION_DENIED, "SIGN_IN_REFUSED", refused.cause) from refused
