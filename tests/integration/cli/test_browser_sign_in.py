"""The command line's sign-in by a browser, against a real issuer over HTTPS and a browser that follows redirects."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from keypost.cli.browser_sign_in import sign_in_by_browser
from keypost.cli.errors import SignInFailedError
from keypost.client.arguments import nonce_of
from keypost.client.results import Oidc
from support.clock import ManualClock
from support.oidc_issuer import CLIENT_ID, OidcIssuer, open_issuer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NONCE = "ab" * 32
BASE = "/realms/main"


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[OidcIssuer]:
    async with open_issuer(tmp_path, ManualClock()) as opened:
        yield opened


def oidc(served: OidcIssuer, **changes: str) -> Oidc:
    roots = served.roots.read_text()
    return Oidc(**{"issuer": served.url, "client_id": CLIENT_ID, "scope": "openid", "tls_roots_pem": roots, **changes})


async def browse(issuer: OidcIssuer, url: str) -> str:
    """Open an address as a person's browser does; return the page on which it ends."""
    async with aiohttp.ClientSession() as session, session.get(url, ssl=issuer.tls()) as page:
        return await page.text()


async def sign_in(served: OidcIssuer, **changes: str) -> str:
    pages: list[asyncio.Task[str]] = []

    def show(url: str) -> None:
        pages.append(asyncio.create_task(browse(served, url)))

    try:
        return await sign_in_by_browser(oidc(served, **changes), NONCE, show, patience=5)
    finally:
        await asyncio.gather(*pages)


async def failure(served: OidcIssuer, **changes: str) -> str:
    with pytest.raises(SignInFailedError) as refusal:
        await sign_in(served, **changes)
    return str(refusal.value)


async def test_a_person_signs_in(issuer: OidcIssuer) -> None:
    assert nonce_of(await sign_in(issuer)) == NONCE
    assert issuer.count(f"{BASE}/token") == 1


async def test_an_endpoint_with_a_query_of_its_own_keeps_it(issuer: OidcIssuer) -> None:
    issuer.description = {"authorization_endpoint": f"{issuer.url}/authorize?kc_locale=de"}
    assert nonce_of(await sign_in(issuer)) == NONCE


async def test_a_person_who_does_not_come_is_waited_for_in_bounds(issuer: OidcIssuer) -> None:
    with pytest.raises(SignInFailedError, match="nobody signed in"):
        await sign_in_by_browser(oidc(issuer), NONCE, lambda _: None, patience=0.05)


async def test_a_refusal_of_the_issuer_is_told(issuer: OidcIssuer) -> None:
    issuer.refusal = {"error": "access_denied", "error_description": "\x1b[31mdo not print me"}
    assert await failure(issuer) == "the issuer did not sign you in: access_denied"
    issuer.refusal = {"error": "\x1b[31m"}
    assert await failure(issuer) == "the issuer did not sign you in: for a reason that is no word"


async def test_a_code_of_another_issuer_is_not_taken_to_this_one(issuer: OidcIssuer) -> None:
    issuer.refusal = {"code": "stolen", "iss": "https://evil.example.org"}
    assert "another issuer" in await failure(issuer)
    assert issuer.count(f"{BASE}/token") == 0


async def test_an_answer_without_a_code_is_none(issuer: OidcIssuer) -> None:
    issuer.refusal = {"code": ""}
    assert "without a code" in await failure(issuer)


@pytest.mark.parametrize(
    ("description", "why"),
    [
        ({"issuer": "https://evil.example.org"}, "names another issuer"),
        ({"token_endpoint": "http://127.0.0.1/token"}, "without TLS"),
        ({"authorization_endpoint": "http://127.0.0.1/authorize"}, "without TLS"),
        ({"authorization_endpoint": "https://127.0.0.1/\x1b[31m"}, "without TLS"),
        ({"token_endpoint": None}, "without TLS"),
        ({"token_endpoint": "https://:x/"}, "URL that is none"),
        ({"token_endpoint": "https://name@127.0.0.1/"}, "URL that is none"),
    ],
)
async def test_an_issuer_that_describes_itself_oddly_is_not_asked_further(
    issuer: OidcIssuer, description: dict[str, Any], why: str
) -> None:
    issuer.description = description
    assert why in await failure(issuer)
    assert issuer.count(f"{BASE}/authorize") == 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"status": 500}, "status 500"),
        ({"body": b"{}", "status": 302, "headers": {"Location": "https://127.0.0.1/"}}, "status 302"),
        ({"body": b"no json"}, "no JSON"),
        ({"body": b"[]"}, "no JSON object"),
        ({"body": b" " * 10 * 2**20}, "too long"),
    ],
)
async def test_what_is_no_description_is_refused(issuer: OidcIssuer, answer: dict[str, Any], why: str) -> None:
    answer.setdefault("body", b"{}")
    issuer.answers[f"{BASE}/.well-known/openid-configuration"] = web.Response(**answer)
    assert why in await failure(issuer)


async def test_a_code_that_the_issuer_does_not_exchange_is_told(issuer: OidcIssuer) -> None:
    body = json.dumps({"error": "invalid_grant"}).encode()
    issuer.answers[f"{BASE}/token"] = web.Response(status=400, body=body)
    assert "gives no ID token (status 400)" in await failure(issuer)


async def test_an_issuer_that_shows_another_certificate_is_not_believed(issuer: OidcIssuer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with open_issuer(tmp_path / "other", ManualClock()) as other:
        assert "SSLCertVerificationError" in await failure(issuer, tls_roots_pem=other.roots.read_text())


async def test_an_issuer_that_is_away_is_told(issuer: OidcIssuer, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    async with open_issuer(tmp_path / "gone", ManualClock()) as gone:
        url = gone.url
    assert "cannot be asked: ConnectionRefusedError" in await failure(issuer, issuer=url)
