"""Who says to come from elsewhere, of himself or through a gateway; against a CA that counts by network address."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.ca.v1.ca_service_pb2_grpc import CertificateAuthorityServiceStub
from keypost_services.runtime.proxies import FORWARDED_FOR
from support.ca_service import CaUnderTest, elsewhere, open_ca
from support.elsewhere import forwarded
from support.gateway import gateway
from support.refusals import refused, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GUESS = pb.SignIn(one_time_code="0" * 26)
MALLORY, ALICE = "127.0.0.6", "127.0.0.7"


@pytest.fixture
async def ca(tmp_path: Path) -> AsyncIterator[CaUnderTest]:
    """A CA behind a gateway: three failed sign-ins a day from a network address."""
    limits = "sign_in_address=3/1d,sign_in_username=none"
    async with open_ca(tmp_path, sign_in="code", limits=limits, trusted_proxies="127.0.0.1/32") as opened:
        yield opened


@asynccontextmanager
async def through_gateway(ca: CaUnderTest, address: str) -> AsyncIterator[Any]:
    """Yield a stub of who comes from ``address`` through the gateway."""
    async with (
        gateway(ca.service.public_port, (ca.folder / "public-root.pem").read_bytes()) as behind,
        forwarded(behind, address) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield CertificateAuthorityServiceStub(channel)


def sign_in(stub: Any, proof: pb.SignIn = GUESS, *, said: str | None = None) -> Any:
    request = pb.BeginEnrollmentRequest(username="alice", sign_in=proof)
    return stub.BeginEnrollment(request, metadata=((FORWARDED_FOR, said),) if said else (), timeout=20)


async def test_a_stranger_who_says_himself_where_he_comes_from(ca: CaUnderTest) -> None:
    async with elsewhere(ca, MALLORY) as stub:
        for number in range(3):
            await refused(sign_in(stub, said=f"198.51.100.{number}"), "SIGN_IN_REFUSED")
        await refused(sign_in(stub, await ca.code("alice"), said="198.51.100.9"), "RATE_LIMITED")


async def test_a_stranger_who_tells_the_gateway_where_he_comes_from(ca: CaUnderTest) -> None:
    async with through_gateway(ca, MALLORY) as stub:
        for number in range(3):
            await refused(sign_in(stub, said=f"198.51.100.{number}, 203.0.113.1"), "SIGN_IN_REFUSED")
        await refused(sign_in(stub, await ca.code("alice"), said="198.51.100.9, 203.0.113.1"), "RATE_LIMITED")


async def test_somebody_kept_out_by_who_comes_through_the_same_gateway(ca: CaUnderTest) -> None:
    async with through_gateway(ca, MALLORY) as stub:
        for _ in range(3):
            await refused(sign_in(stub), "SIGN_IN_REFUSED")
        await refused(sign_in(stub), "RATE_LIMITED")
    async with through_gateway(ca, ALICE) as stub:
        await served(sign_in(stub, await ca.code("alice")))
