"""Signing in by a browser: the authorization-code flow of a native app (RFC 8252) with PKCE (RFC 7636)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from keypost.cli.errors import SignInFailedError
from keypost.cli.issuer import IssuerClient
from keypost.cli.loopback import listening

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keypost.client.results import Oidc

PATIENCE = 300.0
"""Seconds that a person has to sign in."""
AGAIN = "Run the command again, and sign in at the address that it prints."
_RANDOM_BYTES = 32
_ERROR = re.compile(r"[a-z_]{1,40}")


async def sign_in_by_browser(oidc: Oidc, nonce: str, show: Callable[[str], None], patience: float = PATIENCE) -> str:
    """Return the ID token that the issuer gives once a person has signed in.

    Args:
        oidc: The issuer.
        nonce: What the token must have in it.
        show: Shows a person the address to open.
        patience: Seconds that the person has.

    Raises:
        SignInFailedError: the issuer does not answer as it should, or nobody signed in.
    """
    issuer = IssuerClient(oidc)
    description = await asyncio.to_thread(issuer.describe)
    state, verifier = secrets.token_urlsafe(_RANDOM_BYTES), secrets.token_urlsafe(_RANDOM_BYTES)
    async with listening(state) as loopback:
        asked = {"redirect_uri": loopback.redirect_uri, "state": state, "nonce": nonce}
        show(_address(description["authorization_endpoint"], oidc, asked, verifier))
        answer = await _wait(loopback.answer, patience)
    code = _code_of(answer, oidc.issuer)
    return await asyncio.to_thread(issuer.exchange, code, loopback.redirect_uri, verifier)


def _address(endpoint: str, oidc: Oidc, asked: Mapping[str, str], verifier: str) -> str:
    """Return the address at which the person signs in (OpenID Connect Core 1.0, section 3.1.2.1)."""
    query = {
        "response_type": "code",
        "client_id": oidc.client_id,
        "scope": oidc.scope,
        **asked,
        **_challenge(verifier),
    }
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"


def _challenge(verifier: str) -> Mapping[str, str]:
    """Return what ties the code to whoever has the verifier, which itself stands in no address (RFC 7636)."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode()
    return {"code_challenge": digest.rstrip("="), "code_challenge_method": "S256"}


async def _wait(answer: asyncio.Future[dict[str, str]], patience: float) -> dict[str, str]:
    try:
        async with asyncio.timeout(patience):
            return await answer
    except TimeoutError as error:
        raise SignInFailedError(f"nobody signed in within {patience / 60:.0f} minutes", AGAIN) from error


def _code_of(answer: Mapping[str, str], issuer: str) -> str:
    """Return the code in the answer that the browser brought; the listener has checked its state."""
    if (error := answer.get("error")) is not None:
        why = error if _ERROR.fullmatch(error) else "for a reason that is no word"
        raise SignInFailedError(f"the issuer did not sign you in: {why}", AGAIN)
    _check_issuer(answer, issuer)
    if not answer.get("code"):
        raise SignInFailedError("the issuer sent your browser back without a code", AGAIN)
    return answer["code"]


def _check_issuer(answer: Mapping[str, Any], issuer: str) -> None:
    """Refuse an answer that another issuer gave (RFC 9207): its code is for somebody else."""
    if not hmac.compare_digest(answer.get("iss", issuer).encode(), issuer.encode()):
        raise SignInFailedError("another issuer than the realm's has answered", AGAIN)
