"""A CA that takes the ID tokens of a small issuer, both serving over TLS."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.protocol.identifiers import Address
from keypost.protocol.key_requests import DeviceKeyPair, sign_possession
from support.ca_service import CaUnderTest, open_ca
from support.clock import ManualClock
from support.oidc_issuer import OidcIssuer, open_issuer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@dataclass
class OidcCa:
    """The CA, its issuer, and devices whose ID tokens a test may make otherwise than they should be."""

    ca: CaUnderTest
    issuer: OidcIssuer

    def sit_down(self, username: str) -> None:
        """Have the issuer sign somebody in from now on."""
        self.issuer.person = {"sub": f"subject-{username}", "preferred_username": username}

    async def begin(self, username: str, id_token: str) -> pb.BeginEnrollmentResponse:
        request = pb.BeginEnrollmentRequest(username=username, sign_in=pb.SignIn(id_token=id_token))
        return await (await self.ca.devices()).BeginEnrollment(request, timeout=20)

    async def request(
        self, username: str, id_token: Callable[[str], str] | None = None
    ) -> tuple[DeviceKeyPair, pb.EnrollRequest]:
        """Return an enrolment that a good ID token has begun.

        Args:
            username: The user.
            id_token: Returns the ID token to enrol with, for the nonce that it should have; by default a good one.
        """
        begun = await self.begin(username, self.issuer.id_token())
        pair = self.ca.new_pair(Address(username, begun.device_id))
        signed = sign_possession(self.ca.request(pair, begun), pair)
        token = (id_token or self.issuer.id_token)(pair.fingerprint.hex())
        return pair, pb.EnrollRequest(key_request=signed, sign_in=pb.SignIn(id_token=token))

    async def enroll(self, username: str, id_token: Callable[[str], str] | None = None) -> DeviceKeyPair:
        """Enrol as the one who sits there, who is `username` if the issuer is honest."""
        pair, request = await self.request(username, id_token)
        await (await self.ca.devices()).Enroll(request, timeout=20)
        return pair

    def causes(self) -> list[str]:
        """Return why sign-ins were refused, as the CA's operator reads it."""
        return [line["cause"] for line in self.ca.log if line["event"] == "sign_in_refused"]


@asynccontextmanager
async def open_oidc_ca(folder: Path, **changes: Any) -> AsyncIterator[OidcCa]:
    """Serve an issuer, and a CA that takes its ID tokens, with changes to the CA's settings."""
    clock = ManualClock()
    async with open_issuer(folder, clock) as issuer, open_ca(folder, **issuer.settings(**changes)) as ca:
        issuer.clock = ca.clock
        yield OidcCa(ca, issuer)
