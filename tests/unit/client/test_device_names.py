"""Private names of the own devices: kept in the profile, seen by nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keypost.client.device_names import LONGEST_NAME, check_name
from keypost.errors import InvalidArgumentError

if TYPE_CHECKING:
    from support.simulation import Services


async def test_a_name_is_shown_beside_the_keys_of_its_device(alice: Any, services: Services, open_client: Any) -> None:
    other = services.realm.approve(alice.client._parts.identity.current)
    await alice.client.devices()
    await alice.client.name_device(alice.client.address.device_id, "laptop")
    await alice.client.name_device(other.address.device_id, "Téléphone 2")
    await alice.client.close()
    again = await open_client("alice", bundle=None)
    devices = await again.client.devices()
    assert [devices.name_of(key) for key in devices.keys] == ["laptop", "Téléphone 2"]
    assert [devices.is_this_device(key) for key in devices.keys] == [True, False]
    assert "laptop" not in repr(devices)


async def test_a_name_is_taken_away_or_replaced(alice: Any) -> None:
    mine = alice.client.address.device_id
    for name in ("laptop", "old laptop", None, None):
        await alice.client.name_device(mine, name)
        devices = await alice.client.devices()
        assert devices.name_of(devices.keys[0]) == name


async def test_a_name_survives_a_renewal(alice: Any) -> None:
    await alice.client.name_device(alice.client.address.device_id, "laptop")
    await alice.client.renew()
    devices = await alice.client.devices()
    assert [devices.name_of(key) for key in devices.keys] == ["laptop", "laptop"]


async def test_two_devices_do_not_share_a_name(alice: Any, services: Services) -> None:
    other = services.realm.approve(alice.client._parts.identity.current)
    await alice.client.devices()
    await alice.client.name_device(other.address.device_id, "phone")
    with pytest.raises(InvalidArgumentError, match="another of your devices"):
        await alice.client.name_device(alice.client.address.device_id, "phone")


async def test_a_device_that_is_not_there_gets_no_name(alice: Any) -> None:
    for device in ("b" * 16, "x"):
        with pytest.raises(InvalidArgumentError) as caught:
            await alice.client.name_device(device, "phone")
        assert caught.value.metadata["field"] == "device_id"


async def test_no_server_sees_a_name(alice: Any, services: Services) -> None:
    await alice.client.name_device(alice.client.address.device_id, "in-the-kitchen")
    await alice.client.devices()
    asked = "".join(str(request) for requests in services.requests.values() for request in requests)
    assert "kitchen" not in asked


@pytest.mark.parametrize(
    "name",
    ["", " laptop", "laptop ", "two  blanks", "tab\there", "line\nbreak", "a" * 65, "\u202eleft", "a" * 16, 7, b"x"],
)
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_name(name)
    assert caught.value.metadata["field"] == "name"


@given(name=st.text(max_size=80))
def test_a_name_that_is_taken_can_be_shown_on_one_line(name: str) -> None:
    try:
        taken = check_name(name)
    except InvalidArgumentError:
        return
    assert taken == name
    assert 1 <= len(taken) <= LONGEST_NAME
    assert taken.isprintable()
    assert len(taken.splitlines()) == 1
