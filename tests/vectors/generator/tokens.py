"""Vectors of tokens."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes

from keypost.protocol import rsa
from keypost.protocol.encoding import sha256
from keypost.protocol.suites import STRONG, WEAK, Suite
from keypost.protocol.tokens import mint_token
from support.clock import START
from support.realm import SimulatedRealm
from vectors.generator.files import VectorFile
from vectors.generator.talk import name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keypost.protocol.key_requests import DeviceKeyPair

AUDIENCE = "example.org/delivery"
SECONDS = START // 1_000


def tokens_file() -> VectorFile:
    file = VectorFile(
        "tokens",
        "A token as a service gets it at `now`. `key` names the device's recorded key in keys.json. `cause` is the "
        "metadata of TOKEN_REFUSED.",
        "Tokens",
    )
    for suite in (STRONG, WEAK):
        Maker(file, suite).add()
    return file


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Maker:
    """Makes tokens of one suite: right ones, and others."""

    def __init__(self, file: VectorFile, suite: Suite) -> None:
        realm = SimulatedRealm()
        self.file, self.suite = file, suite
        self.pair = realm.enroll("alice", suite)
        self.other = realm.enroll("alice", suite)

    def make(
        self,
        claims: Mapping[str, Any] | bytes = b"",
        header: Mapping[str, Any] | None = None,
        signer: DeviceKeyPair | None = None,
    ) -> str:
        """Return a token with these changes to what it should be."""
        right = {"aud": AUDIENCE, "sub": str(self.pair.address), "iat": SECONDS, "exp": SECONDS + 600}
        payload = (
            claims if isinstance(claims, bytes) and claims else json.dumps({**right, **dict(claims or {})}).encode()
        )
        head = {"alg": self.suite.jwt_algorithm, "typ": "JWT", "kid": self.pair.fingerprint.hex(), **(header or {})}
        signed = f"{_part(json.dumps(head).encode())}.{_part(payload)}"
        private_key = (signer or self.pair).private_key
        digest = sha256(signed.encode())
        signature = rsa.sign_digest(private_key, digest, self.suite._scheme, hashes.SHA256())
        return f"{signed}.{_part(signature)}"

    def values(self, token: str, now: int = START) -> dict[str, Any]:
        """Return what the service has."""
        return {
            "suite": self.suite.name,
            "address": str(self.pair.address),
            "key": name_of(self.pair.fingerprint),
            "audience": AUDIENCE,
            "now": now,
            "token": token,
        }

    def refuse(self, cause: str, name: str, token: str, now: int = START) -> None:
        """Add a token that must be refused."""
        values = self.values(token, now)
        self.file.fails("TOKEN_REFUSED", f"{self.suite.name}: {name}", cause=cause, **values)

    def add(self) -> None:
        """Add all tokens of the suite."""
        until = (SECONDS + 600) * 1_000
        token = mint_token(self.pair, AUDIENCE, START)
        self.file.good(f"{self.suite.name}: a token", **self.values(token), expire_time=until)
        last = self.values(token, until - 1)
        self.file.good(f"{self.suite.name}: a millisecond before its end", **last, expire_time=until)
        early = self.values(token, START - 300_000)
        self.file.good(f"{self.suite.name}: by a clock that is five minutes ahead", **early, expire_time=until)
        self.refuse("EXPIRED", "expired", token, until)
        self.refuse("NOT_YET_VALID", "from the future", token, START - 300_001)
        self._claims()
        self._signatures()

    def _claims(self) -> None:
        make = self.make
        self.refuse("WRONG_AUDIENCE", "for another service", make({"aud": "example.org/directory"}))
        self.refuse("WRONG_AUDIENCE", "for another realm", make({"aud": "evil.org/delivery"}))
        self.refuse("WRONG_AUDIENCE", "a list of audiences", make({"aud": [AUDIENCE]}))
        self.refuse("WRONG_AUDIENCE", "no audience", make({"aud": None}))
        self.refuse("LIVES_TOO_LONG", "lives a second too long", make({"exp": SECONDS + 601}))
        self.refuse("WRONG_KEY", "of another device", make({"sub": str(self.other.address)}))
        self.refuse("WRONG_KEY", "of another key", make(header={"kid": self.other.fingerprint.hex()}))
        for name, claims in (
            ("times that are text", {"exp": str(SECONDS + 600)}),
            ("times that are fractions", {"iat": SECONDS + 0.5}),
            ("no iat", {"iat": None}),
            ("a sub that is no address", {"sub": "alice"}),
        ):
            self.refuse("MALFORMED", name, make(claims))
        self.refuse("MALFORMED", "claims that are no object", make(b"[]"))
        self.refuse("MALFORMED", "no kid", make(header={"kid": None}))
        self.refuse("MALFORMED", "too long", make({"x": "x" * 4096}))

    def _signatures(self) -> None:
        self.refuse("BAD_SIGNATURE", "signed by another key", self.make(signer=self.other))
        good = self.make()
        head, payload, signature = good.split(".")
        altered = _part(
            json.dumps({"aud": AUDIENCE, "sub": str(self.pair.address), "iat": SECONDS, "exp": SECONDS + 1}).encode()
        )
        self.refuse("BAD_SIGNATURE", "altered claims", f"{head}.{altered}.{signature}")
        self.refuse("BAD_SIGNATURE", "no signature", f"{head}.{payload}.")
        self.refuse("MALFORMED", "two parts", f"{head}.{payload}")
        self.refuse("MALFORMED", "alg none", self.make(header={"alg": "none"}))
        other = "RS256" if self.suite is STRONG else "PS256"
        self.refuse("MALFORMED", "the other suite's alg", self.make(header={"alg": other}))
