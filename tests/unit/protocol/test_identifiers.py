import pytest

from keypost.errors import InvalidArgumentError
from keypost.protocol.identifiers import Address, check_device_id, check_realm, check_username, conversation_of

DEVICE = "abcdefghijklmn27"


@pytest.mark.parametrize("username", ["a", "alice", "a.b-c_d+e@f", "0", "a" * 128])
def test_usernames(username: str) -> None:
    assert check_username(username) == username


@pytest.mark.parametrize("username", ["", "A", ".a", "a.", "a/b", "a b", "ä", "a" * 129, "a\n", "٣"])
def test_names_that_are_no_usernames(username: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_username(username)
    assert caught.value.metadata["field"] == "username"


@pytest.mark.parametrize("device_id", ["", DEVICE[:-1], DEVICE + "a", DEVICE.upper(), "abcdefghijklmn18"])
def test_ids_that_are_no_device_ids(device_id: str) -> None:
    with pytest.raises(InvalidArgumentError):
        check_device_id(device_id)


@pytest.mark.parametrize("realm", ["", "Example.org", "-a", "a" * 254, "a_b", "a/b"])
def test_names_that_are_no_realms(realm: str) -> None:
    with pytest.raises(InvalidArgumentError):
        check_realm(realm)
    assert check_realm("example.org") == "example.org"


def test_an_address_is_written_and_read() -> None:
    address = Address("alice", DEVICE)
    assert str(address) == f"alice/{DEVICE}"
    assert Address.parse(str(address)) == address
    for text in ("alice", f"alice/{DEVICE}/x", f"/{DEVICE}"):
        with pytest.raises(InvalidArgumentError):
            Address.parse(text)


def test_a_conversation_has_no_direction() -> None:
    assert conversation_of("bob", "alice") == conversation_of("alice", "bob") == ("alice", "bob")
