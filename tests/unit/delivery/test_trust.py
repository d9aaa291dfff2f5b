from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import structlog
from google.protobuf import json_format

from keypost.clock import DAY, MINUTE, SECOND
from keypost.errors import UnreachableError
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost_services.delivery.trust import Trust, read_root_keys
from keypost_services.runtime.errors import ServiceError, StartError
from support.clock import ManualClock
from support.realm import SimulatedRealm, seeded_signer

if TYPE_CHECKING:
    from pathlib import Path


class Source:
    """A directory that tells trust statements."""

    def __init__(self, realm: SimulatedRealm) -> None:
        self.realm = realm
        self.sequence = 1
        self.asked = 0
        self.away = False

    async def get_realm_trust(self) -> pb.SignedRealmTrust:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise UnreachableError("away")
        return self.realm.signed_trust(self.sequence)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def source(clock: ManualClock) -> Source:
    return Source(SimulatedRealm(clock=clock))


@pytest.fixture
def trust(source: Source, clock: ManualClock) -> Trust:
    log = structlog.wrap_logger(structlog.testing.CapturingLogger())
    return Trust(source, source.realm.realm, [source.realm.root.public_key_der], clock, log)


async def test_it_is_asked_for_once_and_kept_for_a_while(trust: Trust, source: Source, clock: ManualClock) -> None:
    assert {statement.sequence for statement in await asyncio.gather(*(trust.current() for _ in range(9)))} == {1}
    clock.advance(10 * MINUTE - 1)
    await trust.current()
    assert source.asked == 1
    source.sequence = 2
    clock.advance(1)
    assert (await trust.current()).sequence == 2


async def test_what_is_held_goes_on_while_the_directory_is_away(
    trust: Trust, source: Source, clock: ManualClock
) -> None:
    await trust.current()
    source.away = True
    clock.advance(399 * DAY)
    assert (await trust.current()).sequence == 1
    clock.advance(DAY)
    with pytest.raises(ServiceError, match="directory"):
        await trust.current()


async def test_an_older_statement_is_not_believed(trust: Trust, source: Source, clock: ManualClock) -> None:
    source.sequence = 5
    await trust.current()
    source.sequence = 4
    clock.advance(10 * MINUTE)
    assert (await trust.current()).sequence == 5


async def test_a_newer_one_is_not_asked_for_all_the_time(trust: Trust, source: Source, clock: ManualClock) -> None:
    await trust.current()
    source.sequence = 2
    assert (await trust.newer()).sequence == 1
    clock.advance(5 * SECOND)
    assert (await trust.newer()).sequence == 2
    assert source.asked == 2


async def test_nothing_to_rely_on(trust: Trust, source: Source) -> None:
    source.away = True
    with pytest.raises(ServiceError) as raised:
        await trust.current()
    assert raised.value.reason == "DIRECTORY_UNAVAILABLE"


async def test_a_forged_statement_is_nothing(trust: Trust, source: Source) -> None:
    source.realm.root = seeded_signer(9)
    with pytest.raises(ServiceError):
        await trust.current()


def write_bundle(file: Path, bundle: pb.Bundle) -> Path:
    file.write_text(json_format.MessageToJson(bundle))
    return file


def test_the_root_keys_come_from_the_bundle(tmp_path: Path) -> None:
    bundle = pb.Bundle(realm="example.org", root_keys=[pb.RootKey(public_key_der=b"der")])
    assert read_root_keys(write_bundle(tmp_path / "bundle.json", bundle), "example.org") == (b"der",)


@pytest.mark.parametrize(
    ("bundle", "why"),
    [
        (pb.Bundle(realm="other.org", root_keys=[pb.RootKey(public_key_der=b"x")]), "of the realm other.org"),
        (pb.Bundle(root_keys=[pb.RootKey(public_key_der=b"x")]), "(none)"),
        (pb.Bundle(realm="example.org"), "no root keys"),
    ],
)
def test_a_bundle_that_does_not_do(tmp_path: Path, bundle: pb.Bundle, why: str) -> None:
    with pytest.raises(StartError) as raised:
        read_root_keys(write_bundle(tmp_path / "bundle.json", bundle), "example.org")
    assert why in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"realm": 1}'])
def test_a_file_that_is_no_bundle(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bundle.json").write_bytes(content)
    with pytest.raises(StartError) as raised:
        read_root_keys(tmp_path / "bundle.json", "example.org")
    assert "\n" not in str(raised.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StartError):
        read_root_keys(tmp_path / "nothing.json", "example.org")
