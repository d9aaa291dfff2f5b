"""A small OpenID Connect issuer over HTTPS: describes itself, shows its keys, signs people in, and can misbehave."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from jwt import PyJWS
from jwt.algorithms import ECAlgorithm

from keypost.clock import SECOND
from keypost_services.ca.sign_in.fetching import fetch_json
from keypost_services.ca.sign_in.id_tokens import Expected
from keypost_services.ca.sign_in.issuer import Issuer
from keypost_services.ca.sign_in.oidc_sign_in import OidcSignIn
from support.tls import issue_tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from keypost.clock import Clock
    from keypost_services.ca.store import Store

CLIENT_ID = "keypost-devices"
LIFETIME = 300
"""Seconds."""
_SIGNATURES = PyJWS()


@dataclass(frozen=True)
class Asked:
    """What a client was sent to the issuer with."""

    redirect_uri: str
    challenge: str
    method: str
    nonce: str


@dataclass
class OidcIssuer:
    """An issuer that serves; a test changes it while it does.

    Attributes:
        url: How it names itself.
        roots: PEM file: the root of its TLS certificate.
        requests: The paths that were asked for.
        person: Who sits before the browser: the claims about whoever signs in next.
        description: What it says of itself otherwise than it should.
        answers: By path, what is answered instead.
        stalled: Nothing is answered until ``go_on``.
        extra_keys: What it shows besides its keys.
        refusal: With what the browser is sent back instead of a code.
    """

    url: str
    roots: Path
    clock: Clock
    keys: dict[str, EllipticCurvePrivateKey] = field(default_factory=dict, repr=False)
    kid: str = ""
    requests: list[str] = field(default_factory=list)
    person: dict[str, Any] = field(default_factory=lambda: {"sub": "subject-alice", "preferred_username": "alice"})
    description: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, web.StreamResponse] = field(default_factory=dict)
    stalled: bool = False
    codes: dict[str, Asked] = field(default_factory=dict, repr=False)
    extra_keys: list[dict[str, Any]] = field(default_factory=list)
    refusal: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rotate()
        self._go_on, self.asked = asyncio.Event(), asyncio.Event()

    def keys_at_the_ca(self, seconds: float = 5) -> Issuer:
        """Return the issuer as a CA knows it."""
        return Issuer(self.url, partial(fetch_json, tls=self.tls()), self.clock, seconds)

    def tls(self) -> ssl.SSLContext:
        """Return what believes its certificate."""
        return ssl.create_default_context(cafile=self.roots)

    def sign_in(self, store: Store) -> OidcSignIn:
        """Return sign-in by this issuer."""
        expected = Expected(self.url, CLIENT_ID, "preferred_username")
        return OidcSignIn(self.keys_at_the_ca(), expected, store, self.clock)

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Return the settings of a CA that takes its ID tokens."""
        own = {"sign_in": "oidc", "oidc_issuer": self.url, "oidc_client_id": CLIENT_ID, "oidc_ca_bundle": self.roots}
        return own | changes

    def rotate(self) -> None:
        """Sign with a new key, and show the old one no more."""
        self.kid = secrets.token_hex(4)
        self.keys = {self.kid: generate_private_key(SECP256R1())}

    def claims(self, nonce: str | None = "", **changes: Any) -> dict[str, Any]:
        """Return the claims about who signs in; a change to None leaves one out."""
        now = self.clock() // SECOND
        made = {"iss": self.url, "aud": CLIENT_ID, "iat": now, "exp": now + LIFETIME, "nonce": nonce}
        changed = made | self.person | changes
        return {name: value for name, value in changed.items() if value is not None}

    def id_token(self, nonce: str | None = "", headers: dict[str, Any] | None = None, **changes: Any) -> str:
        """Return an ID token for who signs in, signed by the issuer's key."""
        return self.sign(self.claims(nonce, **changes), self.keys[self.kid], headers=headers)

    def sign(
        self, claims: dict[str, Any], key: Any, algorithm: str = "ES256", headers: dict[str, Any] | None = None
    ) -> str:
        """Return a token with these claims, signed by whatever key."""
        header = {"kid": self.kid} | (headers or {})
        return _SIGNATURES.encode(json.dumps(claims).encode(), key, algorithm=algorithm, headers=header)

    def jwks(self) -> dict[str, Any]:
        """Return the key set that it shows."""
        jwk = ECAlgorithm.to_jwk
        shown = [jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig"} for kid, key in self.keys.items()]
        return {"keys": [*shown, *self.extra_keys]}

    def count(self, path: str) -> int:
        """Return how often a path was asked for."""
        return self.requests.count(path)

    def go_on(self) -> None:
        """Answer again, also those who have waited."""
        self.stalled = False
        self._go_on.set()

    @web.middleware
    async def misbehave(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Answer as it should, unless the test has it do otherwise."""
        self.requests.append(request.path)
        self.asked.set()
        if self.stalled:
            await self._go_on.wait()
        if (answer := self.answers.get(request.path)) is not None:
            return answer
        response: web.StreamResponse = await handler(request)
        return response

    async def describe(self, _request: web.Request) -> web.Response:
        """Serve the discovery document."""
        usual = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "code_challenge_methods_supported": ["S256"],
        }
        return web.json_response(usual | self.description)

    async def show_keys(self, _request: web.Request) -> web.Response:
        """Serve the keys."""
        return web.json_response(self.jwks())

    async def authorize(self, request: web.Request) -> web.Response:
        """Sign the person in at once, and send the browser back with a code (RFC 6749, section 4.1; RFC 7636)."""
        query = request.query
        wanted = {"client_id": CLIENT_ID, "response_type": "code"}
        if any(query.get(name) != value for name, value in wanted.items()) or "openid" not in query["scope"].split():
            raise web.HTTPBadRequest
        code = secrets.token_urlsafe(16)
        self.codes[code] = Asked(
            query["redirect_uri"], query["code_challenge"], query["code_challenge_method"], query["nonce"]
        )
        answer = urlencode({"state": query["state"]} | (self.refusal or {"code": code, "iss": self.url}))
        raise web.HTTPFound(f"{query['redirect_uri']}?{answer}")

    async def give_token(self, request: web.Request) -> web.Response:
        """Exchange a code for an ID token, once, for whoever knows what the challenge was made of."""
        form = await request.post()
        asked = self.codes.pop(str(form.get("code")), None)
        if asked is None or form.get("grant_type") != "authorization_code" or form.get("client_id") != CLIENT_ID:
            return web.json_response({"error": "invalid_grant"}, status=400)
        challenge = _challenge(str(form.get("code_verifier")), asked.method)
        if (challenge, form.get("redirect_uri")) != (asked.challenge, asked.redirect_uri):
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response({"token_type": "Bearer", "access_token": "a", "id_token": self.id_token(asked.nonce)})


def _challenge(verifier: str, method: str) -> str:
    """Return what the verifier of a code was sent as (RFC 7636, section 4.6)."""
    if method != "S256":
        return verifier
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


@asynccontextmanager
async def open_issuer(
    folder: Path, clock: Clock, path: str = "/realms/main", *, plain: bool = False
) -> AsyncIterator[OidcIssuer]:
    """Serve an issuer on a free port of loopback, with a TLS root of its own; or without TLS, as none may."""
    tls = issue_tls()
    roots, chain, key = (folder / f"issuer-{name}.pem" for name in ("root", "certificate", "key"))
    roots.write_text(tls.roots_pem)
    chain.write_bytes(tls.certificate_pem)
    key.write_bytes(tls.private_key_pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    issuer = OidcIssuer("", roots, clock)
    app = web.Application(middlewares=[issuer.misbehave])
    app.router.add_get(f"{path}/.well-known/openid-configuration", issuer.describe)
    app.router.add_get(f"{path}/keys", issuer.show_keys)
    app.router.add_get(f"{path}/authorize", issuer.authorize)
    app.router.add_post(f"{path}/token", issuer.give_token)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=None if plain else context)
    await site.start()
    issuer.url = f"{'http' if plain else 'https'}://127.0.0.1:{runner.addresses[0][1]}{path}"
    try:
        yield issuer
    finally:
        issuer.go_on()
        await runner.cleanup()
