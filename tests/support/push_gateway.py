"""A push gateway over HTTPS that verifies what it is told as any receiver of Standard Webhooks would."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from support.tls import issue_tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECRET = bytes(range(32))
OTHER_SECRET = bytes(range(1, 33))


def secret_line(secret: bytes = SECRET) -> str:
    return f"whsec_{base64.b64encode(secret).decode()}\n"


@dataclass
class PushGateway:
    """A gateway that serves.

    Attributes:
        url: Where it is told.
        roots: PEM file: the root of its TLS certificate.
        told: What it took, in order.
        ids: The ids of everything that came, taken or not.
        answers: What it answers to the next ones instead of taking them.
        elsewhere: How often somebody followed a redirect.
    """

    url: str
    roots: Path
    secret_file: Path
    told: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    answers: list[web.Response] = field(default_factory=list)
    elsewhere: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Return the settings of a replica that tells it."""
        own = {"hook_url": self.url, "hook_secret_file": self.secret_file, "hook_tls_roots": self.roots}
        return own | {"hook_interval_seconds": 0} | changes

    async def until_told(self, count: int) -> list[dict[str, Any]]:
        """Return what it took once that is so much; fails after twenty seconds."""
        async with asyncio.timeout(20):
            while len(self.told) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.told

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = request.headers
        self.ids.append(headers["webhook-id"])
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        mac = base64.b64encode(hmac.digest(SECRET, signed, hashlib.sha256)).decode()
        if f"v1,{mac}" not in headers["webhook-signature"].split(" "):
            return web.Response(status=401)
        if self.answers:
            return self.answers.pop(0)
        self.told.append(json.loads(body))
        self.changed.set()
        return web.Response(status=204)

    async def follow(self, _request: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.Response(status=204)


@asynccontextmanager
async def open_push_gateway(folder: Path) -> AsyncIterator[PushGateway]:
    """Serve a gateway on a free port of loopback, with a TLS root of its own."""
    tls = issue_tls()
    roots, chain, key, secret = (folder / f"gateway-{name}" for name in ("root.pem", "chain.pem", "key.pem", "secret"))
    roots.write_text(tls.roots_pem)
    chain.write_bytes(tls.certificate_pem)
    key.write_bytes(tls.private_key_pem)
    secret.write_text(f"# while one replaces the other\n{secret_line(OTHER_SECRET)}\n{secret_line()}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    gateway = PushGateway("", roots, secret)
    app = web.Application()
    app.router.add_post("/wake", gateway.take)
    app.router.add_route("*", "/elsewhere", gateway.follow)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    gateway.url = f"https://127.0.0.1:{runner.addresses[0][1]}/wake"
    try:
        yield gateway
    finally:
        await runner.cleanup()
