from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from keypost.protocol.errors import UnknownRecordKeyError
from keypost.protocol.realm_trust import RealmTrust
from keypost_services.runtime.records import read_record
from support.directory import FixedTrust
from support.realm import SimulatedRealm, seeded_signer

if TYPE_CHECKING:
    from keypost.protocol.realm_trust import RecordKey

_threads: list[int] = []


class NotingTrust(RealmTrust):
    """Notes which thread verifies."""

    def record_key(self, record_key_fingerprint: bytes, now: int) -> RecordKey:
        _threads.append(threading.get_ident())
        return super().record_key(record_key_fingerprint, now)


@pytest.mark.parametrize(("devices", "beside"), [(1, False), (8, True)])
async def test_many_signatures_are_verified_beside_the_loop(devices: int, *, beside: bool) -> None:
    realm = SimulatedRealm()
    first = realm.enroll("alice")
    for _ in range(devices - 1):
        realm.approve(first)
    _threads.clear()
    trust = FixedTrust(NotingTrust(**vars(realm.trust())))
    record = await read_record(realm.key_info("alice"), trust=trust, username="alice", now=realm.clock())
    assert len(record.keys) == devices
    assert _threads
    assert (threading.get_ident() not in _threads) is beside


async def test_an_unknown_record_key_makes_the_trust_be_fetched_once() -> None:
    realm = SimulatedRealm()
    trust = FixedTrust(realm.trust())
    realm.record_signer = seeded_signer(66)
    realm.enroll("alice")
    with pytest.raises(UnknownRecordKeyError):
        await read_record(realm.key_info("alice"), trust=trust, username="alice", now=realm.clock())
    assert trust.refreshed == 1
