"""The keys that anybody can break: a real one of each kind, and none that is sound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keypost.protocol.encoding import fingerprint
from keypost.protocol.identifiers import Address
from keypost.protocol.key_requests import DeviceKeyPair, read_key_request, sign_possession
from keypost.protocol.renewal import step_4_upload
from keypost.protocol.rsa import public_key_der
from keypost.protocol.suites import STRONG, SUITES, WEAK, Suite
from keypost_services.ca.key_quality import WEAKNESSES, KeyQuality, load_blocked_keys
from keypost_services.runtime.errors import ServiceError, StartError
from support.bad_keys import KINDS, bad_key
from support.ca import OPEN, CaBench
from support.keys import SIZES, pooled_key

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from keypost.protocol.key_requests import KeyRequest


def pair_of(address: Address, suite: Suite, private_key: RSAPrivateKey) -> DeviceKeyPair:
    return DeviceKeyPair(address, suite, private_key, public_key_der(private_key))


async def request_with(bench: CaBench, suite: Suite, private_key: RSAPrivateKey) -> KeyRequest:
    start = await bench.enrollment.begin("alice", OPEN)
    pair = pair_of(Address("alice", start.device_id), suite, private_key)
    return read_key_request(sign_possession(bench.request(pair, start), pair))


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
@pytest.mark.parametrize("weakness", sorted(KINDS))
async def test_a_key_with_a_known_weakness_is_refused(bench: CaBench, suite: Suite, weakness: str) -> None:
    request = await request_with(bench, suite, bad_key(weakness, suite))
    with pytest.raises(ServiceError) as refusal:
        await bench.enrollment.enroll(request, OPEN)
    assert (refusal.value.reason, refusal.value.metadata["weakness"]) == ("KEY_WEAK", weakness)
    assert not await bench.store.find_users(["alice"])


def test_every_weakness_has_its_bad_key() -> None:
    assert sorted(WEAKNESSES.values()) == sorted(KINDS)


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
async def test_sound_keys_are_taken(bench: CaBench, suite: Suite) -> None:
    for index in range(SIZES[suite.name]):
        KeyQuality().check(await request_with(bench, suite, pooled_key(suite, index)))


async def test_a_renewal_is_held_to_the_same(bench: CaBench) -> None:
    old = await bench.enroll("alice")
    start = await bench.renewal.begin(old.address)
    new = pair_of(old.address, STRONG, bad_key("ROCA"))
    changes = {"kind": 3, "parent_fingerprint": old.fingerprint}
    signed = step_4_upload(bench.request(new, start, **changes), new, old)
    with pytest.raises(ServiceError, match="private half") as refusal:
        await bench.submit_renew(signed)
    assert refusal.value.reason == "KEY_WEAK"
    assert (await bench.record("alice")).good_keys(bench.clock())[0].fingerprint == old.fingerprint


async def test_a_blocked_key_is_refused(bench: CaBench, tmp_path: Path) -> None:
    published = pooled_key(WEAK, 0)
    digits = fingerprint(public_key_der(published)).hex()
    file = tmp_path / "blocked.txt"
    file.write_text(f"# published\n\n{'0' * 64}\n  {digits.upper()}  # by mistake\n")
    quality = KeyQuality(load_blocked_keys(file))
    with pytest.raises(ServiceError) as refusal:
        quality.check(await request_with(bench, WEAK, published))
    assert refusal.value.metadata["weakness"] == "BLOCKED"
    quality.check(await request_with(bench, WEAK, pooled_key(WEAK, 1)))


@pytest.mark.parametrize("line", ["abc", "0" * 63, "0" * 65, "x" * 64, "00 " * 21 + "0"])
def test_a_line_that_is_no_fingerprint_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "blocked.txt"
    file.write_text(f"{'0' * 64}\n{line}\n")
    with pytest.raises(StartError, match=r"KEYPOST_CA_BLOCKED_KEYS: .*, line 2 is no fingerprint"):
        load_blocked_keys(file)


def test_a_block_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "blocked.txt"
    file.write_bytes(b"\xff\xfe")
    for unreadable in (file, tmp_path / "gone.txt"):
        with pytest.raises(StartError, match="KEYPOST_CA_BLOCKED_KEYS: cannot read"):
            load_blocked_keys(unreadable)


def test_without_a_block_list_nothing_is_blocked() -> None:
    assert load_blocked_keys(None) == frozenset()
