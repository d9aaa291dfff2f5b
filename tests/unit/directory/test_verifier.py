"""What was verified before, byte for byte, is known again; and nothing else passes for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import HOUR
from keypost.protocol import key_info as protocol
from keypost.protocol.errors import (
    RecordExpiredError,
    RecordRefusedError,
    SignatureInvalidError,
    UnknownRecordKeyError,
)
from keypost_services.directory.look_up.verifier import Verifier
from keypost_services.runtime import records
from support.clock import ManualClock
from support.directory import FixedTrust, new_metrics, silent_log
from support.realm import SimulatedRealm, seeded_signer

if TYPE_CHECKING:
    from keypost.keys.v1 import key_info_pb2
    from keypost.protocol.key_info import KeyRecord


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock()
        self.realm = SimulatedRealm(self.clock)
        self.realm.enroll("alice")
        self.trust = FixedTrust(self.realm.trust())
        self.verifier = Verifier(self.trust, self.clock, silent_log(), new_metrics())
        self.verified = 0
        monkeypatch.setattr(records, "read_key_info", self._count)

    def _count(self, key_info: key_info_pb2.KeyInfo, **rest: Any) -> KeyRecord:
        self.verified += 1
        return protocol.read_key_info(key_info, **rest)

    async def read(self, key_info: key_info_pb2.KeyInfo, username: str = "alice") -> KeyRecord:
        return await self.verifier.read_again(key_info, key_info.SerializeToString(), username=username)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


async def test_the_same_bytes_are_verified_once(bench: Bench) -> None:
    key_info = bench.realm.key_info("alice")
    first, again = await bench.read(key_info), await bench.read(key_info)
    assert (again, again.key_info) == (first, first.key_info)
    assert bench.verified == 1


async def test_other_bytes_are_verified_again(bench: Bench) -> None:
    key_info = bench.realm.key_info("alice")
    await bench.read(key_info)
    key_info.record.signature = bytes(64)
    with pytest.raises(SignatureInvalidError):
        await bench.read(key_info)
    # What was refused is not known afterwards.
    with pytest.raises(SignatureInvalidError):
        await bench.read(key_info)
    assert bench.verified == 3


async def test_the_record_of_one_user_is_not_anothers(bench: Bench) -> None:
    key_info = bench.realm.key_info("alice")
    await bench.read(key_info)
    with pytest.raises(RecordRefusedError):
        await bench.read(key_info, "bob")


async def test_another_trust_statement_judges_anew(bench: Bench) -> None:
    key_info = bench.realm.key_info("alice")
    await bench.read(key_info)
    bench.trust.trust = replace(bench.trust.trust, sequence=2)
    await bench.read(key_info)
    assert bench.verified == 2


async def test_a_record_key_that_is_listed_no_more_signs_nothing_that_was_known(bench: Bench) -> None:
    key_info = bench.realm.key_info("alice")
    await bench.read(key_info)
    other = SimulatedRealm(bench.clock, record_signer=seeded_signer(66)).trust().record_keys
    # Of the same sequence, which a realm never does: the record key is looked at all the same.
    bench.trust.trust = replace(bench.trust.trust, record_keys=other)
    with pytest.raises(UnknownRecordKeyError):
        await bench.read(key_info)


async def test_what_was_fresh_is_not_for_ever(bench: Bench) -> None:
    key_info = bench.realm.key_info("alice")
    await bench.read(key_info)
    bench.clock.advance(HOUR)
    with pytest.raises(RecordExpiredError):
        await bench.read(key_info)
