"""Who comes between the command line, the browser and the issuer, while a person signs in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from keypost.cli.browser_sign_in import sign_in_by_browser
from keypost.cli.errors import SignInFailedError
from keypost.client.results import Oidc
from support.attacks import stopped_by
from support.clock import ManualClock
from support.oidc_issuer import CLIENT_ID, OidcIssuer, open_issuer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NONCE = "ab" * 32
AUTHORIZE, TOKEN = "/realms/main/authorize", "/realms/main/token"


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[OidcIssuer]:
    async with open_issuer(tmp_path, ManualClock()) as opened:
        yield opened


def oidc(issuer: OidcIssuer) -> Oidc:
    return Oidc(issuer.url, CLIENT_ID, "openid", issuer.roots.read_text())


async def browse(issuer: OidcIssuer, url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url, ssl=issuer.tls()) as page:
        return page.status


async def sign_in(issuer: OidcIssuer) -> str:
    """Sign in as a person does."""
    pages: list[asyncio.Task[int]] = []
    try:
        show = lambda url: pages.append(asyncio.create_task(browse(issuer, url)))  # noqa: E731
        return await sign_in_by_browser(oidc(issuer), NONCE, show, patience=5)
    finally:
        await asyncio.gather(*pages)


async def test_a_page_that_sends_the_browser_with_a_code_of_its_own(issuer: OidcIssuer) -> None:
    """The victim would go on with the account of the attacker."""
    shown: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(sign_in_by_browser(oidc(issuer), NONCE, shown.set_result, patience=5))
    loopback = parse_qs(urlsplit(await shown).query)["redirect_uri"][0]
    status = await browse(issuer, f"{loopback}?code=of-the-attacker&state=guessed")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    # Who is admitted by such a code exchanges it in a thread, which goes on: the issuer must not end before it.
    await asyncio.get_running_loop().shutdown_default_executor()
    assert (status, issuer.count(TOKEN)) == (400, 0)


async def test_the_answer_of_another_issuer(issuer: OidcIssuer) -> None:
    """Whoever rules it has the code of our issuer brought to where he may exchange it."""
    issuer.refusal = {"code": "of-the-other", "iss": "https://evil.example.org"}
    with stopped_by(SignInFailedError, "another issuer"):
        await sign_in(issuer)


async def test_an_issuer_that_is_described_as_another_one(issuer: OidcIssuer) -> None:
    issuer.description = {"issuer": "https://evil.example.org"}
    with stopped_by(SignInFailedError, "names another issuer"):
        await sign_in(issuer)
    assert issuer.count(AUTHORIZE) == 0


async def test_a_page_without_tls_to_sign_in_at(issuer: OidcIssuer) -> None:
    """Whoever is on the way would see passwords."""
    shown: list[str] = []
    plain = issuer.url.replace("https://", "http://")
    issuer.description = {"authorization_endpoint": f"{plain}/authorize"}
    try:
        with stopped_by(SignInFailedError, "without TLS"):
            await sign_in_by_browser(oidc(issuer), NONCE, shown.append, patience=0.1)
    finally:
        assert shown == []


async def test_a_code_that_is_overheard(issuer: OidcIssuer) -> None:
    """Another program of this machine reads it in the browser's history, and exchanges it first."""
    shown: list[str] = []
    waiting = sign_in_by_browser(oidc(issuer), NONCE, shown.append, patience=0.1)
    with pytest.raises(SignInFailedError):
        await waiting
    query = parse_qs(urlsplit(shown[0]).query)
    async with aiohttp.ClientSession() as session:
        async with session.get(shown[0], ssl=issuer.tls(), allow_redirects=False) as page:
            code = parse_qs(urlsplit(page.headers["Location"]).query)["code"][0]
        form = {"grant_type": "authorization_code", "code": code, "client_id": CLIENT_ID}
        form |= {"redirect_uri": query["redirect_uri"][0], "code_verifier": query["code_challenge"][0]}
        async with session.post(f"{issuer.url}/token", data=form, ssl=issuer.tls()) as answer:
            assert answer.status == 400, "what stands in the address is enough to exchange the code"
