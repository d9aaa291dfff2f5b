"""Signing in by an ID token: its nonce is known before anything is asked, and stays until the key is recorded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from jwt.utils import base64url_encode

from keypost.client.results import Oidc
from keypost.errors import InvalidArgumentError, RefusedError, UnreachableError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.keys.v1 import realm_trust_pb2
from keypost.protocol.errors import SuiteRefusedError
from keypost.protocol.suites import STRONG, WEAK
from support.simulation import failing

if TYPE_CHECKING:
    from support.simulation import Services

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def id_token(nonce: object) -> str:
    """Return something of the form of an ID token; the simulated CA takes any."""
    parts = ({"alg": "ES256"}, {"sub": "s", "nonce": nonce})
    return ".".join([*(base64url_encode(json.dumps(part).encode()).decode() for part in parts), "c2ln"])


def recorded(services: Services) -> pb.KeyRequest:
    return pb.KeyRequest.FromString(services.requests["Enroll"][-1].key_request.key_request)


async def test_the_nonce_is_of_the_key_that_is_recorded(open_client: Any, services: Services) -> None:
    carol = await open_client("carol")
    nonce = await carol.client.sign_in_nonce("carol")
    assert not services.requests["BeginEnrollment"]
    address = await carol.client.enroll("carol", id_token=id_token(nonce))
    [key] = (await carol.client.devices()).keys
    assert (key.fingerprint.hex(), key.address) == (nonce, address)
    assert services.requests["Enroll"][0].sign_in.id_token == id_token(nonce)


async def test_the_nonce_stays_until_the_key_is_recorded(open_client: Any, services: Services) -> None:
    carol = await open_client("carol")
    nonce = await carol.client.sign_in_nonce("carol")
    await carol.client.close()
    again = await open_client("carol")
    assert not services.requests["GetKeyInfo"], "nobody can know a key for which nothing was asked"
    assert await again.client.sign_in_nonce("carol") == nonce
    services.faults["Enroll"] += [failing(UNAVAILABLE, "SHUTTING_DOWN")] * 9
    with pytest.raises((RefusedError, UnreachableError)):
        await again.client.enroll("carol", id_token=id_token(nonce))
    services.faults["Enroll"].clear()
    assert await again.client.sign_in_nonce("carol") == nonce
    await again.client.enroll("carol", id_token=id_token(nonce))


async def test_another_user_or_suite_has_another_nonce(open_client: Any) -> None:
    carol = await open_client("carol", minimum_suite=WEAK)
    first = await carol.client.sign_in_nonce("carol")
    assert await carol.client.sign_in_nonce("dave") != first
    strong = await carol.client.sign_in_nonce("carol", STRONG)
    assert await carol.client.sign_in_nonce("carol", WEAK) != strong


async def test_a_code_takes_the_key_that_waits_for_an_id_token(open_client: Any, services: Services) -> None:
    carol = await open_client("carol")
    nonce = await carol.client.sign_in_nonce("carol")
    await carol.client.enroll("carol", code="7" * 26)
    [key] = (await carol.client.devices()).keys
    assert key.fingerprint.hex() == nonce
    assert recorded(services).device_id == key.address.device_id


@pytest.mark.parametrize("nonce", ["0" * 64, None, 5, ["a"]])
async def test_a_token_for_another_key_is_told_before_the_ca_is_asked(
    open_client: Any, services: Services, nonce: object
) -> None:
    carol = await open_client("carol")
    with pytest.raises(InvalidArgumentError, match="issued for another key"):
        await carol.client.enroll("carol", id_token=id_token(nonce))
    await carol.client.sign_in_nonce("carol")
    with pytest.raises(InvalidArgumentError, match="issued for another key") as refusal:
        await carol.client.enroll("carol", id_token=id_token(nonce))
    assert refusal.value.metadata["field"] == "id_token"
    assert not services.requests["BeginEnrollment"]


@pytest.mark.parametrize("token", ["", "e30.e30", "e30.e30.c2==", 5, b"e30.e30.c2ln", "e30.W10.c2ln", "e30.e.c2ln"])
async def test_what_is_no_id_token_is_told(open_client: Any, token: Any) -> None:
    carol = await open_client("carol")
    await carol.client.sign_in_nonce("carol")
    with pytest.raises(InvalidArgumentError) as refusal:
        await carol.client.enroll("carol", id_token=token)
    assert refusal.value.metadata["field"] == "id_token"


async def test_one_proof_is_enough(open_client: Any) -> None:
    carol = await open_client("carol")
    with pytest.raises(InvalidArgumentError, match="not by both"):
        await carol.client.enroll("carol", code="7" * 26, id_token="e30.e30.c2ln")
    with pytest.raises(InvalidArgumentError, match="not by both"):
        await carol.client.request_reset("carol", code="7" * 26, id_token="e30.e30.c2ln")


async def test_a_device_needs_no_nonce(alice: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="already"):
        await alice.client.sign_in_nonce("alice")


async def test_a_suite_below_the_minimum_has_no_nonce(open_client: Any) -> None:
    carol = await open_client("carol")
    with pytest.raises(SuiteRefusedError):
        await carol.client.sign_in_nonce("carol", WEAK)


async def test_a_realm_without_an_issuer_says_so(alice: Any) -> None:
    assert alice.client.oidc is None


def test_the_bundle_names_the_issuer() -> None:
    bundle = realm_trust_pb2.Bundle(oidc=realm_trust_pb2.OidcClient(issuer="https://id.example.org", client_id="app"))
    assert Oidc.of(bundle) == Oidc("https://id.example.org", "app", "openid profile", "")
    bundle.oidc.scope = "openid email"
    assert Oidc.of(bundle).scope == "openid email"  # type: ignore[union-attr]  # it is named
