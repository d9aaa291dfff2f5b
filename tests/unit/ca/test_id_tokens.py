"""ID tokens: every rule at its bounds; what none of them names is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt import PyJWS
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from keypost.clock import SECOND
from keypost.protocol.suites import STRONG
from keypost_services.ca.sign_in.id_tokens import (
    MOST_AGE,
    SKEW,
    Expected,
    IdToken,
    check_nonce,
    check_username,
    peek_kid,
    verify_id_token,
)
from keypost_services.ca.sign_in.issuer_keys import ALGORITHMS, IssuerKey, read_keys
from keypost_services.ca.sign_in.port import SignInRefusedError
from support.clock import START
from support.keys import pooled_key

if TYPE_CHECKING:
    from collections.abc import Callable

EXPECTED = Expected("https://id.example.org", "keypost", "preferred_username")
NOW = START // SECOND
SKEW_SECONDS, MOST_AGE_SECONDS = SKEW // SECOND, MOST_AGE // SECOND
GOOD: dict[str, Any] = {
    "iss": EXPECTED.issuer,
    "aud": EXPECTED.client_id,
    "sub": "subject",
    "iat": NOW,
    "exp": NOW + 300,
    "preferred_username": "alice",
    "nonce": "ab" * 32,
}
RSA_KEY = pooled_key(STRONG, 0)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
JWKS = {
    "keys": [
        RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True) | {"kid": "rsa"},
        RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True) | {"kid": "pss", "alg": "PS256"},
        ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True) | {"kid": "ec"},
        OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True) | {"kid": "ed"},
    ]
}
KEYS = read_keys(JWKS)


def signed(claims: object, key: Any = EC_KEY, algorithm: str = "ES256", **headers: Any) -> str:
    return PyJWS().encode(json.dumps(claims).encode(), key, algorithm=algorithm, headers={"kid": "ec"} | headers)


def verify(claims: object, expected: Expected = EXPECTED) -> IdToken:
    return verify_id_token(signed(claims), KEYS["ec"], expected, START)


def cause(call: Callable[[], object]) -> str:
    with pytest.raises(SignInRefusedError) as refusal:
        call()
    return refusal.value.cause


def refused(**changes: Any) -> str:
    return cause(lambda: verify({name: value for name, value in (GOOD | changes).items() if value is not ...}))


@pytest.mark.parametrize(
    ("kid", "key", "algorithm"),
    [
        ("rsa", RSA_KEY, "RS256"),
        ("rsa", RSA_KEY, "PS256"),
        ("pss", RSA_KEY, "PS256"),
        ("ec", EC_KEY, "ES256"),
        ("ed", ED_KEY, "EdDSA"),
    ],
)
def test_each_algorithm_verifies_by_a_key_of_its_kind(kid: str, key: Any, algorithm: str) -> None:
    token = verify_id_token(signed(GOOD, key, algorithm, kid=kid), KEYS[kid], EXPECTED, START)
    assert (token.subject, token.username, token.nonce) == ("subject", "alice", "ab" * 32)


@pytest.mark.parametrize(
    ("kid", "key", "algorithm"),
    [
        ("pss", RSA_KEY, "RS256"),
        ("rsa", RSA_KEY, "RS384"),
        ("rsa", RSA_KEY, "PS512"),
        ("ec", ec.generate_private_key(ec.SECP384R1()), "ES384"),
        ("ec", RSA_KEY, "RS256"),
        ("rsa", EC_KEY, "ES256"),
        ("ed", b"s" * 64, "HS256"),
        ("rsa", b"s" * 64, "HS512"),
    ],
)
def test_no_other_algorithm_does(kid: str, key: Any, algorithm: str) -> None:
    token = signed(GOOD, key, algorithm, kid=kid)
    assert cause(lambda: verify_id_token(token, KEYS[kid], EXPECTED, START)) == "MALFORMED"


def test_all_algorithms_are_asymmetric() -> None:
    assert set(ALGORITHMS) == {"RS256", "PS256", "ES256", "EdDSA"}


def test_private_members_of_a_shown_key_are_not_read() -> None:
    shown = ECAlgorithm.to_jwk(EC_KEY, as_dict=True) | {"kid": "ec"}
    assert "d" in shown
    assert isinstance(read_keys({"keys": [shown]})["ec"].public_key, ec.EllipticCurvePublicKey)


def test_the_first_of_two_keys_of_one_name_counts() -> None:
    twice = [JWKS["keys"][2], JWKS["keys"][3] | {"kid": "ec"}]
    assert read_keys({"keys": twice}) == {"ec": IssuerKey(KEYS["ec"].public_key, ("ES256",))}


@pytest.mark.parametrize("bits", [1024, 2047])
def test_a_short_rsa_key_is_left_out(bits: int) -> None:
    short = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, bits).public_key(), as_dict=True) | {"kid": "short"}
    assert "short" not in read_keys({"keys": [short, *JWKS["keys"]]})


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ({"exp": NOW - SKEW_SECONDS}, "EXPIRED"),
        ({"iat": NOW + SKEW_SECONDS + 1}, "NOT_YET_VALID"),
        ({"nbf": NOW + SKEW_SECONDS + 1}, "NOT_YET_VALID"),
        ({"iat": NOW - MOST_AGE_SECONDS - SKEW_SECONDS}, "TOO_OLD"),
    ],
)
def test_times_hold_to_the_second(times: dict[str, int], why: str) -> None:
    assert refused(**times) == why
    (name, last) = next(iter(times.items()))
    assert verify(GOOD | {name: last + (1 if why in {"EXPIRED", "TOO_OLD"} else -1)})


def test_fractions_of_seconds_are_times() -> None:
    assert verify(GOOD | {"iat": NOW - 0.5, "exp": NOW + 299.5, "nbf": NOW - 0.5})


@pytest.mark.parametrize("name", ["iat", "exp", "nbf"])
@pytest.mark.parametrize("value", [True, str(NOW), None, [NOW], -1, 2**60, float("nan"), float("inf"), 10**400])
def test_what_is_no_time_is_refused(name: str, value: Any) -> None:
    assert refused(**{name: value}) == "MALFORMED"


@pytest.mark.parametrize("name", ["iat", "exp"])
def test_a_token_without_a_time_is_refused(name: str) -> None:
    assert refused(**{name: ...}) == "MALFORMED"


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"sub": ...}, "CLAIM_MISSING"),
        ({"sub": 5}, "CLAIM_MISSING"),
        ({"sub": ""}, "MALFORMED"),
        ({"sub": "s" * 256}, "MALFORMED"),
        ({"sub": "\u00fc"}, "MALFORMED"),
        ({"sub": "s\u0000"}, "MALFORMED"),
        ({"sub": "s\u001b[2J"}, "MALFORMED"),
        ({"preferred_username": ...}, "CLAIM_MISSING"),
        ({"preferred_username": ["alice"]}, "CLAIM_MISSING"),
        ({"nonce": 5}, "MALFORMED"),
        ({"nonce": "\u00fc"}, "MALFORMED"),
        ({"iss": [EXPECTED.issuer]}, "WRONG_ISSUER"),
        ({"aud": {"keypost": 1}}, "WRONG_AUDIENCE"),
        ({"azp": ["keypost"]}, "WRONG_PARTY"),
    ],
)
def test_a_claim_of_another_form_is_refused(claims: dict[str, Any], why: str) -> None:
    assert refused(**claims) == why


@pytest.mark.parametrize("claims", [[], "text", 5, None])
def test_claims_are_an_object(claims: object) -> None:
    assert cause(lambda: verify(claims)) == "MALFORMED"


@given(st.text().filter(lambda text: text != "alice"))
def test_only_the_very_same_name_is_the_user(name: str) -> None:
    token = IdToken("subject", name, "")
    assert cause(lambda: check_username(token, "alice")) == "WRONG_USERNAME"


@given(st.binary(min_size=32, max_size=32), st.text(alphabet=st.characters(max_codepoint=127)))
def test_only_the_very_fingerprint_is_the_nonce(fingerprint: bytes, nonce: str) -> None:
    check_nonce(IdToken("subject", "alice", fingerprint.hex()), fingerprint)
    if nonce != fingerprint.hex():
        assert cause(lambda: check_nonce(IdToken("subject", "alice", nonce), fingerprint)) == "WRONG_NONCE"


@given(
    st.dictionaries(st.sampled_from(sorted(GOOD)), st.none() | st.booleans() | st.integers() | st.text(), min_size=1)
)
def test_a_token_that_is_accepted_says_what_is_expected(changes: dict[str, Any]) -> None:
    claims = GOOD | changes
    try:
        token = verify(claims)
    except SignInRefusedError:
        return
    assert (claims["iss"], claims["aud"]) == (EXPECTED.issuer, EXPECTED.client_id)
    assert (token.subject, token.username) == (claims["sub"], claims["preferred_username"])


@pytest.mark.parametrize("typ", ["JWT", "jwt", None])
def test_a_type_is_that_of_a_token_or_absent(typ: str | None) -> None:
    assert peek_kid(signed(GOOD, typ=typ)) == "ec"


@pytest.mark.parametrize("typ", ["at+jwt", "logout+jwt", "secevent+jwt", 5, "application/at+jwt"])
def test_another_type_is_refused(typ: Any) -> None:
    assert cause(lambda: peek_kid(signed(GOOD, typ=typ))) == "NOT_AN_ID_TOKEN"


@pytest.mark.parametrize("token", ["", "a.b.c", "e30", "e30.e30", "W10.e30.c2ln", "e30.e30.e30.e30", "\u00fc.e30.e30"])
def test_what_is_no_token_names_no_key(token: str) -> None:
    assert cause(lambda: peek_kid(token)) in {"MALFORMED", "NO_KEY_NAMED"}


def test_an_extension_that_must_be_understood_is_not() -> None:
    token = signed(GOOD, crit=["exp"], exp=1)
    assert cause(lambda: (peek_kid(token), verify_id_token(token, KEYS["ec"], EXPECTED, START))) == "MALFORMED"


def test_nothing_shows_subject_or_nonce() -> None:
    token = verify(GOOD | {"sub": "very-private"})
    assert "very-private" not in repr(token)
    assert "ab" * 32 not in repr(token)
