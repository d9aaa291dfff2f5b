"""The issuer as the CA knows it, against a real one over HTTPS: rotation, outages, and answers that are none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from keypost.clock import SECOND
from keypost_services.ca.sign_in.issuer import KEYS_LIFETIME, READ_INTERVAL, RETRY_INTERVAL
from keypost_services.ca.sign_in.issuer_keys import MOST_KEYS
from keypost_services.runtime.errors import SourceAwayError
from support.clock import ManualClock
from support.oidc_issuer import OidcIssuer, open_issuer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from keypost_services.ca.sign_in.issuer import Issuer

KEYS = "/realms/main/keys"
DESCRIPTION = "/realms/main/.well-known/openid-configuration"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def issuer(tmp_path: Path, clock: ManualClock) -> AsyncIterator[OidcIssuer]:
    async with open_issuer(tmp_path, clock) as opened:
        yield opened


@pytest.fixture
def known(issuer: OidcIssuer) -> Issuer:
    return issuer.keys_at_the_ca()


async def away(known: Issuer, kid: str) -> str:
    with pytest.raises(SourceAwayError) as refusal:
        await known.find_key(kid)
    return str(refusal.value)


async def test_keys_are_read_once_and_kept(issuer: OidcIssuer, known: Issuer) -> None:
    first, *others = await asyncio.gather(*(known.find_key(issuer.kid) for _ in range(5)))
    assert first is not None
    assert first.public_key == issuer.keys[issuer.kid].public_key()
    assert others == [first] * 4
    assert issuer.requests == [DESCRIPTION, KEYS]


async def test_an_unknown_key_has_them_read_anew_at_most_once_in_a_while(
    clock: ManualClock, issuer: OidcIssuer, known: Issuer
) -> None:
    await known.find_key(issuer.kid)
    issuer.rotate()
    assert await known.find_key(issuer.kid) is None
    clock.advance(READ_INTERVAL)
    assert await known.find_key(issuer.kid) is not None
    for number in range(5):
        assert await known.find_key(f"made up {number}") is None
    assert issuer.count(KEYS) == 2


async def test_a_key_that_is_shown_no_more_is_dropped(clock: ManualClock, issuer: OidcIssuer, known: Issuer) -> None:
    old = issuer.kid
    await known.find_key(old)
    issuer.rotate()
    clock.advance(KEYS_LIFETIME)
    assert await known.find_key(old) is None


async def test_known_keys_serve_while_the_issuer_is_away_but_not_for_long(
    clock: ManualClock, issuer: OidcIssuer, known: Issuer
) -> None:
    await known.find_key(issuer.kid)
    issuer.answers[KEYS] = web.Response(status=503)
    clock.advance(KEYS_LIFETIME - 1)
    assert "status 503" in await away(known, "unknown")
    assert await known.find_key(issuer.kid) is not None
    clock.advance(1)
    assert "status 503" in await away(known, issuer.kid)


async def test_an_issuer_that_is_back_is_asked_again(clock: ManualClock, issuer: OidcIssuer, known: Issuer) -> None:
    issuer.answers[DESCRIPTION] = web.Response(status=500)
    for _ in range(3):
        assert "status 500" in await away(known, issuer.kid)
    assert issuer.requests == [DESCRIPTION]
    issuer.answers.clear()
    clock.advance(RETRY_INTERVAL)
    assert await known.find_key(issuer.kid) is not None


async def test_an_issuer_that_nobody_reaches_is_away(issuer: OidcIssuer, tmp_path: Path) -> None:
    async with open_issuer(tmp_path, issuer.clock) as gone:
        known = gone.keys_at_the_ca()
    assert "ClientConnectorError" in await away(known, "any")


async def test_an_issuer_that_stalls_is_given_up(issuer: OidcIssuer) -> None:
    issuer.stalled = True
    assert "too slow" in await away(issuer.keys_at_the_ca(seconds=0.2), issuer.kid)


async def test_who_gives_up_takes_the_answer_from_nobody(issuer: OidcIssuer, known: Issuer) -> None:
    issuer.stalled = True
    impatient, patient = (asyncio.create_task(known.find_key(issuer.kid)) for _ in range(2))
    await issuer.asked.wait()
    impatient.cancel()
    issuer.go_on()
    assert await patient is not None
    assert issuer.requests == [DESCRIPTION, KEYS]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 100_000, b'{"keys": 5}', b'{"keys": []}', b"null", b"[]", b"\xff", b"9" * 5_000],
    ids=["empty", "cut", "deep", "no list", "no keys", "null", "a list", "no text", "a long number"],
)
async def test_what_are_no_keys_is_away(issuer: OidcIssuer, known: Issuer, body: bytes) -> None:
    issuer.answers[KEYS] = web.Response(body=body)
    assert await away(known, issuer.kid)


@pytest.mark.parametrize(
    "jwk",
    [
        5,
        {},
        {"kty": ["EC"]},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "odd"},
        {"kty": "EC", "crv": "P-256", "x": 5, "y": None, "kid": "odd"},
        {"kty": "EC", "crv": "secp256k1", "x": "A" * 43, "y": "A" * 43, "kid": "odd"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "odd"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "odd"},
        {"kty": "RSA", "n": "_" * 4_000, "e": "AQAB", "kid": "odd"},
        {"kty": "OKP", "crv": "Ed448", "x": "A" * 76, "kid": "odd"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": "odd"},
        {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "kid": "odd", "use": "enc"},
        {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "kid": "odd", "alg": "none"},
        {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "kid": ["odd"]},
        {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "kid": "o" * 257},
    ],
)
async def test_a_key_that_is_not_for_us_is_left_out_and_the_others_are_read(
    issuer: OidcIssuer, known: Issuer, jwk: Any
) -> None:
    issuer.extra_keys = [jwk]
    assert await known.find_key("odd") is None
    assert await known.find_key(issuer.kid) is not None


async def test_too_many_keys_are_refused(issuer: OidcIssuer, known: Issuer) -> None:
    issuer.extra_keys = [{}] * MOST_KEYS
    assert f"at most {MOST_KEYS}" in await away(known, issuer.kid)


async def test_a_description_without_the_place_of_the_keys_is_refused(issuer: OidcIssuer, known: Issuer) -> None:
    issuer.description = {"jwks_uri": None}
    assert "where its keys are" in await away(known, issuer.kid)


async def test_an_issuer_with_another_root_is_not_believed(issuer: OidcIssuer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with open_issuer(tmp_path / "other", issuer.clock) as other:
        issuer.roots = other.roots
        assert "Certificate" in await away(issuer.keys_at_the_ca(), issuer.kid)


async def test_the_time_of_the_next_question_counts_from_the_answer(
    clock: ManualClock, issuer: OidcIssuer, known: Issuer
) -> None:
    await known.find_key(issuer.kid)
    clock.advance(READ_INTERVAL - SECOND)
    assert await known.find_key("unknown") is None
    assert issuer.count(KEYS) == 1
