"""What people compare before they vouch for a device."""

from __future__ import annotations

from keypost.cli.device_commands import grouped


def test_a_key_is_compared_by_more_than_anybody_could_have_ready() -> None:
    assert grouped(bytes(range(32))) == "0001-0203-0405-0607-0809-0a0b-0c0d-0e0f"
