"""What every record signer keeps, wherever its key is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keypost.protocol.encoding import USER_KEYS
from keypost.protocol.signing import load_public_key, sign_statement, verify_statement
from keypost_services.ca.policy import Policy
from keypost_services.ca.records import Records
from keypost_services.ca.trust.key_files import Cost, load_signer, seal
from keypost_services.ca.trust.realm import Realm, ServedRealm
from keypost_services.ca.trust.signing import LocalSigner, SignerAwayError
from keypost_services.runtime.errors import ServiceError
from support.ca import CaBench, open_bench
from support.realm import SimulatedRealm, seeded_signer
from support.signing_process import SocketSigner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from keypost_services.ca.trust.signing import RecordSigner

SEED = 2
TESTS = Path(__file__).parents[2]
ADAPTERS = ("memory", "sealed file", "another process")


@pytest.fixture
def signing_process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "support.signing_process", str(tmp_path / "signer"), str(SEED)]
    with subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"serving\n"
            yield process
        finally:
            process.kill()


@pytest.fixture(params=ADAPTERS)
def signer(request: pytest.FixtureRequest, tmp_path: Path) -> RecordSigner:
    if request.param == "memory":
        return LocalSigner(seeded_signer(SEED))
    if request.param == "sealed file":
        file = tmp_path / "record.key"
        file.write_bytes(seal(seeded_signer(SEED)._private_key, "correct horse", Cost(64, 1, 1)))
        return LocalSigner(load_signer(file, lambda: "correct horse"))
    request.getfixturevalue("signing_process")
    return SocketSigner(tmp_path / "signer", seeded_signer(SEED).public_key_der)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[CaBench]:
    async with open_bench(tmp_path) as opened:
        yield opened


async def test_its_signature_is_the_keys(signer: RecordSigner) -> None:
    data = b"x" * 20_000
    signature = await signer.sign(data)
    load_public_key(signer.public_key_der).verify(signature, data)
    assert signature == seeded_signer(SEED).sign(data)


async def test_many_may_ask_at_once(signer: RecordSigner) -> None:
    signatures = await asyncio.gather(*(signer.sign(b"%d" % number) for number in range(50)))
    expected = seeded_signer(SEED)
    assert signatures == [expected.sign(b"%d" % number) for number in range(50)]


def test_it_does_not_show_its_key(signer: RecordSigner) -> None:
    raw = seeded_signer(SEED)._private_key.private_bytes_raw()
    assert raw.hex() not in repr(signer)
    assert str(raw) not in repr(signer)


async def test_the_ca_signs_records_with_it(signer: RecordSigner, bench: CaBench) -> None:
    await bench.enroll("alice")
    served = ServedRealm(Realm(bench.trust, signers=(signer,)))
    records = Records(bench.store, served, Policy(bench.realm.constants, 10**9), bench.clock)
    found = await records.find(["alice"])
    assert bench.read(found["alice"], "alice").revision == 1
    assert found["alice"].record.signature == sign_statement(
        seeded_signer(SEED), USER_KEYS, found["alice"].record.user_keys
    )
    verify_statement(signer.public_key_der, USER_KEYS, found["alice"].record.user_keys, found["alice"].record.signature)


async def test_one_that_is_away_says_so_and_the_ca_with_it(
    signing_process: subprocess.Popen[bytes], tmp_path: Path, bench: CaBench
) -> None:
    await bench.enroll("alice")
    signer = SocketSigner(tmp_path / "signer", seeded_signer(SEED).public_key_der)
    served = ServedRealm(Realm(bench.trust, signers=(signer,)))
    records = Records(bench.store, served, Policy(bench.realm.constants, 10**9), bench.clock)
    assert await records.find_one("alice", b"") is not None
    signing_process.kill()
    signing_process.wait()
    with pytest.raises(SignerAwayError, match="does not answer"):
        await signer.sign(b"data")
    with pytest.raises(ServiceError) as refused:
        await records.find_one("alice", b"")
    assert refused.value.reason == "SIGNING_UNAVAILABLE"
    assert refused.value.retry_after_ms


def test_the_realm_of_tests_signs_with_this_seed() -> None:
    assert SimulatedRealm().record_signer.public_key_der == seeded_signer(SEED).public_key_der
