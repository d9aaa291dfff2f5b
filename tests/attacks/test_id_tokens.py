"""Who signs in with an ID token that is not his, not for us, or not by the issuer; against CA and issuer over TLS."""

from __future__ import annotations

import asyncio
import hmac
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from jwt.algorithms import ECAlgorithm
from jwt.utils import base64url_encode

from keypost.clock import DAY, HOUR, MINUTE, SECOND
from keypost_services.ca.sign_in.fetching import MOST_BYTES
from keypost_services.ca.sign_in.issuer import KEYS_LIFETIME, READ_INTERVAL
from support.oidc_ca import OidcCa, open_oidc_ca
from support.oidc_issuer import CLIENT_ID, open_issuer
from support.plain_client import refusal
from support.refusals import raised, refused, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from support.oidc_issuer import OidcIssuer

KEYS = "/realms/main/keys"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[OidcCa]:
    async with open_oidc_ca(tmp_path) as opened:
        yield opened


async def not_enrolled(world: OidcCa, forge: Callable[[str], str], cause: str) -> None:
    """Demand that nobody is enrolled by a token, and that the operator reads why."""
    await refused(world.enroll("alice", forge), "SIGN_IN_REFUSED")
    assert world.causes()[-1] == cause


@pytest.mark.parametrize("issuer", ["https://evil.example.org", "", None, "suffix"])
async def test_a_token_of_another_issuer(world: OidcCa, issuer: str | None) -> None:
    named = f"{world.issuer.url}/" if issuer == "suffix" else issuer
    await not_enrolled(world, lambda nonce: world.issuer.id_token(nonce, iss=named), "WRONG_ISSUER")


@pytest.mark.parametrize("audience", ["shop", f"{CLIENT_ID}2", [], ["shop"], [[CLIENT_ID]], {CLIENT_ID: 1}, None])
async def test_a_token_for_another_client(world: OidcCa, audience: Any) -> None:
    await not_enrolled(world, lambda nonce: world.issuer.id_token(nonce, aud=audience), "WRONG_AUDIENCE")


@pytest.mark.parametrize("azp", ["shop", None, ""])
async def test_a_token_for_many_that_another_client_asked_for(world: OidcCa, azp: str | None) -> None:
    def of(party: str | None) -> Callable[[str], str]:
        return lambda nonce: world.issuer.id_token(nonce, aud=["shop", CLIENT_ID], azp=party)

    await not_enrolled(world, of(azp), "WRONG_PARTY")
    await served(world.enroll("alice", of(CLIENT_ID)))


def unsigned(world: OidcCa, algorithm: str) -> Callable[[str], str]:
    def forge(nonce: str) -> str:
        header = {"alg": algorithm, "typ": "JWT", "kid": world.issuer.kid}
        parts = (base64url_encode(json.dumps(part).encode()).decode() for part in (header, world.issuer.claims(nonce)))
        return ".".join([*parts, "AA"])

    return forge


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "ES256", "RS256", "HS256"])
async def test_a_token_that_nobody_signed(world: OidcCa, algorithm: str) -> None:
    await refused(world.enroll("alice", unsigned(world, algorithm)), "SIGN_IN_REFUSED")


async def test_a_public_key_as_a_secret(world: OidcCa) -> None:
    """The key that verifies is public: whoever takes it for a shared secret believes everybody."""
    spki = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    public = world.issuer.keys[world.issuer.kid].public_key().public_bytes(*spki)

    def forge(nonce: str) -> str:
        signed = unsigned(world, "HS256")(nonce).rpartition(".")[0]
        return f"{signed}.{base64url_encode(hmac.digest(public, signed.encode(), 'sha256')).decode()}"

    await not_enrolled(world, forge, "MALFORMED")


@pytest.mark.parametrize("kid", ["../../../../dev/null", "/dev/null", "' OR 1=1 --", "keys.json\0", "", "x" * 1_000])
async def test_a_key_of_the_forgers_own_under_whatever_name(world: OidcCa, kid: str) -> None:
    own = generate_private_key(SECP256R1())
    headers = {"kid": kid, "jku": "https://evil.example.org/keys", "x5u": "file:///etc/key"}
    forged = lambda nonce: world.issuer.sign(world.issuer.claims(nonce), own, headers=headers)  # noqa: E731
    await not_enrolled(world, forged, "UNKNOWN_KEY")
    assert len(world.issuer.requests) == 2, "somebody was asked for keys because a token says so"


async def test_a_key_that_the_token_brings_along(world: OidcCa) -> None:
    own = generate_private_key(SECP256R1())
    headers = {"jwk": ECAlgorithm.to_jwk(own.public_key(), as_dict=True)}
    await not_enrolled(
        world, lambda nonce: world.issuer.sign(world.issuer.claims(nonce), own, headers=headers), "BAD_SIGNATURE"
    )


async def test_a_key_that_the_issuer_has_withdrawn(world: OidcCa) -> None:
    stolen, kid = world.issuer.keys[world.issuer.kid], world.issuer.kid
    await world.begin("alice", world.issuer.id_token())
    world.issuer.rotate()
    world.ca.clock.advance(KEYS_LIFETIME)

    forged = world.issuer.sign(world.issuer.claims(), stolen, headers={"kid": kid})
    await refused(world.begin("alice", forged), "SIGN_IN_REFUSED")
    assert world.causes() == ["UNKNOWN_KEY"]


@pytest.mark.parametrize("ended", [MINUTE, HOUR, 400 * DAY])
async def test_a_token_that_has_ended(world: OidcCa, ended: int) -> None:
    now = world.ca.clock() // SECOND
    changes: dict[str, Any] = {"iat": now - 10, "exp": now - ended // SECOND}
    await not_enrolled(world, lambda nonce: world.issuer.id_token(nonce, **changes), "EXPIRED")


@pytest.mark.parametrize("claim", ["iat", "nbf"])
async def test_a_token_of_the_future(world: OidcCa, claim: str) -> None:
    later: dict[str, Any] = {claim: world.ca.clock() // SECOND + 61, "exp": world.ca.clock() // SECOND + 9_000}
    await not_enrolled(world, lambda nonce: world.issuer.id_token(nonce, **later), "NOT_YET_VALID")


async def test_a_token_that_lay_about_for_too_long(world: OidcCa) -> None:
    """However long its issuer lets it live."""
    now = world.ca.clock() // SECOND
    old: dict[str, Any] = {"iat": now - 3_660, "exp": now + 400 * DAY // SECOND}
    await not_enrolled(world, lambda nonce: world.issuer.id_token(nonce, **old), "TOO_OLD")


@pytest.mark.parametrize("of", ["another key", "nothing", "capitals", "a prefix"])
async def test_a_token_for_another_key(world: OidcCa, of: str) -> None:
    """Whoever overhears Alice's token has a key of his own recorded as hers."""
    nonces: dict[str, Callable[[str], str | None]] = {
        "another key": lambda _: "0" * 64,
        "nothing": lambda _: None,
        "capitals": str.upper,
        "a prefix": lambda nonce: nonce[:32],
    }
    await not_enrolled(world, lambda nonce: world.issuer.id_token(nonce=nonces[of](nonce)), "WRONG_NONCE")


@pytest.mark.parametrize("name", ["Alice", "alice ", "alice\0", "\u0430lice", "bob", ""])
async def test_a_token_of_another_user(world: OidcCa, name: str) -> None:
    forged = lambda nonce: world.issuer.id_token(nonce, preferred_username=name)  # noqa: E731
    await refused(world.enroll("alice", forged), "SIGN_IN_REFUSED")


async def test_an_address_that_nobody_has_verified(tmp_path: Path) -> None:
    async with open_oidc_ca(tmp_path, oidc_username_claim="email") as world:
        world.issuer.person = {"sub": "mallory", "email": "alice@example.org", "email_verified": False}
        await refused(world.begin("alice@example.org", world.issuer.id_token()), "SIGN_IN_REFUSED")
        assert world.causes() == ["EMAIL_UNVERIFIED"]
        world.issuer.person |= {"email_verified": True}
        await served(world.begin("alice@example.org", world.issuer.id_token()))


async def test_a_token_that_shows_no_sign_in(world: OidcCa) -> None:
    """An access token of the same issuer, which any server that Alice uses has in its hands."""
    headers = {"typ": "at+jwt"}
    await not_enrolled(world, lambda nonce: world.issuer.id_token(nonce, headers), "NOT_AN_ID_TOKEN")


async def test_another_subject_as_the_same_user(world: OidcCa) -> None:
    """The issuer gave Alice's name to somebody else after she had left."""
    await world.enroll("alice")
    world.ca.clock.advance(90 * DAY)  # her key has expired: nothing but her identity stands between
    world.issuer.person["sub"] = "subject-of-a-namesake"
    await refused(world.enroll("alice"), "SIGN_IN_REFUSED")
    assert world.causes() == ["ANOTHER_IDENTITY"]


async def test_the_same_subject_as_another_user(world: OidcCa) -> None:
    """Mallory has renamed herself at the issuer, to the name of somebody who is to come."""
    world.sit_down("mallory")
    await world.enroll("mallory")
    world.issuer.person["preferred_username"] = "alice"
    await refused(world.enroll("alice"), "SIGN_IN_REFUSED")
    assert world.causes() == ["ANOTHER_IDENTITY"]


async def test_one_subject_as_two_users_at_once(world: OidcCa) -> None:
    """Both requests are judged before either is recorded."""
    requests = []
    for name in ("alice", "mallory"):
        world.issuer.person = {"sub": "subject-mallory", "preferred_username": name}
        requests.append((await world.request(name))[1])
    stub = await world.ca.devices()
    outcomes = await asyncio.gather(*map(stub.Enroll, requests), return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert len(failures) == 1, "one subject is two users"
    await refused(raised(failures[0]), "SIGN_IN_REFUSED")


async def test_a_description_of_another_issuer(world: OidcCa) -> None:
    world.issuer.description = {"issuer": "https://evil.example.org"}
    await refused(world.enroll("alice"), "SIGN_IN_UNAVAILABLE")


def forged_with(world: OidcCa, evil: OidcIssuer) -> Callable[[str], str]:
    """Return what makes tokens of the issuer, but with the key of somebody else, who would have to be asked for it."""
    key = evil.keys[evil.kid]
    return lambda nonce: world.issuer.sign(world.issuer.claims(nonce), key, headers={"kid": evil.kid})


async def test_keys_that_are_fetched_without_tls(world: OidcCa, tmp_path: Path) -> None:
    async with open_issuer(tmp_path, world.ca.clock, plain=True) as evil:
        world.issuer.description = {"jwks_uri": f"{evil.url}/keys"}
        await refused(world.begin("alice", forged_with(world, evil)("")), "SIGN_IN_UNAVAILABLE")
        assert evil.requests == []


async def test_an_issuer_that_sends_elsewhere(world: OidcCa, tmp_path: Path) -> None:
    """Whoever may place a file at the issuer, and a redirect to it, would say what its keys are."""
    async with open_issuer(tmp_path, world.ca.clock, plain=True) as evil:
        world.issuer.answers[KEYS] = web.Response(status=302, headers={"Location": "/elsewhere"})
        world.issuer.answers["/elsewhere"] = web.json_response(evil.jwks())
        await refused(world.begin("alice", forged_with(world, evil)("")), "SIGN_IN_UNAVAILABLE")
        assert "/elsewhere" not in world.issuer.requests


async def test_a_man_between_ca_and_issuer(world: OidcCa, tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    async with open_issuer(tmp_path / "evil", world.ca.clock) as evil:
        world.issuer.description = {"jwks_uri": f"{evil.url}/keys"}
        await refused(world.begin("alice", forged_with(world, evil)("")), "SIGN_IN_UNAVAILABLE")
        assert evil.requests == []


async def test_an_issuer_that_never_ends(world: OidcCa) -> None:
    world.issuer.answers[KEYS] = web.Response(body=json.dumps(world.issuer.jwks()).encode() + b" " * 10 * 2**20)
    await refused(world.enroll("alice"), "SIGN_IN_UNAVAILABLE")
    assert any(str(MOST_BYTES) in line.get("why", "") for line in world.ca.log)


async def test_an_issuer_that_never_answers(tmp_path: Path) -> None:
    async with open_oidc_ca(tmp_path, oidc_seconds=0.3) as world:
        world.issuer.stalled = True
        call = asyncio.create_task(world.begin("alice", world.issuer.id_token()))
        done, _ = await asyncio.wait({call}, timeout=5)
        world.issuer.go_on()
        (outcome,) = await asyncio.gather(call, return_exceptions=True)
        assert done, "whoever signs in waits for as long as the issuer likes"
        assert isinstance(outcome, Exception)
        await refused(raised(outcome), "SIGN_IN_UNAVAILABLE")


async def test_key_names_that_are_made_up(world: OidcCa) -> None:
    """Each of them could have the CA ask the issuer: a flood there, by way of the CA."""
    for number in range(5):
        made_up = world.issuer.id_token(headers={"kid": f"made up {number}"})
        await refused(world.begin("alice", made_up), "SIGN_IN_REFUSED")
    assert world.issuer.count(KEYS) == 1
    world.ca.clock.advance(READ_INTERVAL)
    await served(world.begin("alice", world.issuer.id_token()))


async def test_why_a_sign_in_fails_is_asked_by_failing(world: OidcCa) -> None:
    bad = [
        world.issuer.id_token(aud="shop"),
        world.issuer.id_token(exp=1),
        world.issuer.id_token(preferred_username="bob"),
        world.issuer.id_token(headers={"kid": "unknown"}),
        unsigned(world, "none")(""),
    ]
    answers = [await refusal(world.begin("alice", token)) for token in bad]
    assert answers == [answers[0]] * len(bad)
    assert len(set(world.causes())) == len(bad)
    for token in bad:
        assert token.rpartition(".")[2] not in world.ca.output.getvalue()
