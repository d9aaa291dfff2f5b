"""An OpenID Connect issuer as a client asks it: what it says of itself, and the exchange of a code. Blocks."""

from __future__ import annotations

import json
import ssl
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from keypost.cli.errors import SignInFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keypost.client.results import Oidc

SECONDS = 10.0
LARGEST_ANSWER = 128 * 1024
DISCOVERY = "/.well-known/openid-configuration"
ENDPOINTS = ("authorization_endpoint", "token_endpoint")
TRY_AGAIN = "Try again; if it stays so, tell your administrator."


class IssuerClient:
    """Asks one issuer, over TLS alone.

    Args:
        oidc: The issuer.
    """

    def __init__(self, oidc: Oidc) -> None:
        self._oidc = oidc
        self._description: dict[str, Any] = {}

    def describe(self) -> Mapping[str, Any]:
        """Return what the issuer says of itself (OpenID Connect Discovery 1.0, section 4).

        Raises:
            SignInFailedError: it does not answer, or as another issuer.
        """
        status, description = self._ask("GET", self._oidc.issuer.removesuffix("/") + DISCOVERY)
        if status != HTTPStatus.OK:
            raise _odd(f"it answers with status {status}")
        _check_named(description, self._oidc.issuer)
        for name in ENDPOINTS:
            _parts_of(description.get(name))
        self._description = description
        return description

    def exchange(self, code: str, redirect_uri: str, verifier: str) -> str:
        """Return the ID token for a code (RFC 6749, section 4.1.3); ``describe`` comes first.

        Raises:
            SignInFailedError: the issuer refuses.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "client_id": self._oidc.client_id,
            "code_verifier": verifier,
        }
        status, answer = self._ask("POST", self._description["token_endpoint"], urlencode(form))
        if status != HTTPStatus.OK or not isinstance(answer.get("id_token"), str):
            raise _odd(f"it gives no ID token (status {status})")
        return str(answer["id_token"])

    def _ask(self, method: str, url: str, form: str | None = None) -> tuple[int, dict[str, Any]]:
        """Return status and JSON object; redirects are not followed, proxies not asked."""
        host, port, target = _parts_of(url)
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "keypost"}
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            connection = HTTPSConnection(host, port, timeout=SECONDS, context=self._tls())
            try:
                connection.request(method, target, form, headers)
                response = connection.getresponse()
                return response.status, _parse(response.read(LARGEST_ANSWER + 1))
            finally:
                connection.close()
        except (OSError, HTTPException) as error:
            raise _odd(f"it cannot be asked: {type(error).__name__}") from error

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self._oidc.tls_roots_pem or None)


def _check_named(description: Mapping[str, Any], issuer: str) -> None:
    if description.get("issuer") != issuer:
        raise _odd("its description names another issuer")


def _parts_of(url: Any) -> tuple[str, int | None, str]:
    """Return host, port and target of a URL that begins with https://."""
    try:
        parts = urlsplit(url if isinstance(url, str) and url.isascii() and url.isprintable() else "")
        port = parts.port
    except ValueError as error:
        raise _odd("it names a URL that is none") from error
    _check_scheme(parts.scheme)
    if not parts.hostname or parts.username is not None or parts.fragment or " " in str(url):
        raise _odd("it names a URL that is none")
    return parts.hostname, port, f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"


def _check_scheme(scheme: str) -> None:
    if scheme != "https":
        raise _odd("it would have to be asked without TLS")


def _parse(body: bytes) -> dict[str, Any]:
    if len(body) > LARGEST_ANSWER:
        raise _odd("its answer is too long")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _odd("its answer is no JSON") from error
    if not isinstance(answer, dict):
        raise _odd("its answer is no JSON object")
    return answer


def _odd(why: str) -> SignInFailedError:
    return SignInFailedError(f"the realm's issuer does not answer as it should: {why}", TRY_AGAIN)
