import base64
import json
from typing import Any

import pytest
from jwt import PyJWS

from keypost.clock import MINUTE, SECOND
from keypost.protocol.errors import TokenRefusedError
from keypost.protocol.key_requests import DeviceKeyPair
from keypost.protocol.suites import SUITES, Suite
from keypost.protocol.tokens import audience_of, mint_token, peek_token, verify_token
from support.clock import START, ManualClock
from support.realm import SimulatedRealm

AUDIENCE = audience_of("example.org", "delivery")


def refused(realm: SimulatedRealm, pair: DeviceKeyPair, token: str) -> str:
    with pytest.raises(TokenRefusedError) as caught:
        verify_token(token, realm.key_record("alice").get(pair.fingerprint), AUDIENCE, realm.clock())
    return caught.value.metadata["cause"]


def forged(pair: DeviceKeyPair, signer: DeviceKeyPair | None = None, **changes: Any) -> str:
    issued = START // SECOND
    claims = {"aud": AUDIENCE, "sub": str(pair.address), "iat": issued, "exp": issued + 600, **changes}
    payload = json.dumps({name: value for name, value in claims.items() if value is not None}).encode()
    headers = {"kid": pair.fingerprint.hex()}
    key = (signer or pair).private_key
    return PyJWS().encode(payload, key, algorithm="PS256", headers=headers)


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_a_token_tells_who_calls_for_ten_minutes(realm: SimulatedRealm, clock: ManualClock, suite: Suite) -> None:
    pair = realm.enroll("alice", suite)
    token = mint_token(pair, AUDIENCE, clock())
    claim = peek_token(token)
    assert (claim.address, claim.fingerprint) == (pair.address, pair.fingerprint)
    key = realm.key_record("alice").get(pair.fingerprint)
    assert verify_token(token, key, AUDIENCE, clock()) == START + 10 * MINUTE
    clock.advance(10 * MINUTE)
    assert refused(realm, pair, token) == "EXPIRED"


def test_a_token_for_another_service_is_refused(realm: SimulatedRealm) -> None:
    pair = realm.enroll("alice")
    assert refused(realm, pair, mint_token(pair, audience_of("example.org", "directory"), START)) == "WRONG_AUDIENCE"


def test_a_list_of_audiences_is_refused(realm: SimulatedRealm) -> None:
    pair = realm.enroll("alice")
    assert refused(realm, pair, forged(pair, aud=[AUDIENCE])) == "WRONG_AUDIENCE"


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"exp": START // SECOND + 601}, "LIVES_TOO_LONG"),
        ({"iat": START // SECOND + 301}, "NOT_YET_VALID"),
        ({"exp": START // SECOND}, "EXPIRED"),
        ({"exp": None}, "MALFORMED"),
        ({"exp": True}, "MALFORMED"),
        ({"iat": "now"}, "MALFORMED"),
        ({"aud": None}, "WRONG_AUDIENCE"),
        ({"sub": None}, "MALFORMED"),
        ({"sub": "alice"}, "MALFORMED"),
        ({"sub": 7}, "MALFORMED"),
        ({"sub": "mallory/aaaaaaaaaaaaaaab"}, "WRONG_KEY"),
    ],
    ids=str,
)
def test_claims_that_are_refused(realm: SimulatedRealm, changes: dict[str, Any], cause: str) -> None:
    pair = realm.enroll("alice")
    assert refused(realm, pair, forged(pair, **changes)) == cause


def test_somebody_elses_signature_is_refused(realm: SimulatedRealm) -> None:
    pair, thief = realm.enroll("alice"), realm.enroll("mallory")
    assert refused(realm, pair, forged(pair, signer=thief)) == "BAD_SIGNATURE"
    assert refused(realm, pair, mint_token(thief, AUDIENCE, START)) == "WRONG_KEY"


def test_another_algorithm_is_refused(realm: SimulatedRealm) -> None:
    pair = realm.enroll("alice")
    payload = json.dumps({"aud": AUDIENCE, "sub": str(pair.address), "iat": 1, "exp": 2}).encode()
    headers = {"kid": pair.fingerprint.hex()}
    for algorithm, key in (("RS256", pair.private_key), ("HS256", bytes(64)), ("none", None)):
        token = PyJWS().encode(payload, key, algorithm=algorithm, headers=headers)  # type: ignore[arg-type]
        assert refused(realm, pair, token) == "MALFORMED"


@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 5000, "e30.e30.", "eyJhbGciOiJQUzI1NiIsImtpZCI6IjAwIn0.W10."])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(TokenRefusedError):
        peek_token(token)


def test_deeply_nested_claims_are_no_token() -> None:
    payload = base64.urlsafe_b64encode(b"[" * 2500).decode().rstrip("=")
    with pytest.raises(TokenRefusedError):
        peek_token(f"eyJhbGciOiJQUzI1NiIsImtpZCI6IjAwIn0.{payload}.")
