"""Names: realm, username, device, address, conversation (docs/spec.md, "Names")."""

from __future__ import annotations

import re
from dataclasses import dataclass

from keypost.errors import InvalidArgumentError

USERNAME = re.compile(r"[a-z0-9](?:[a-z0-9._@+-]{0,126}[a-z0-9])?", re.ASCII)
DEVICE_ID = re.compile(r"[a-z2-7]{16}", re.ASCII)
REALM = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)


def check_username(username: str) -> str:
    """Return ``username`` if it can be one.

    Raises:
        InvalidArgumentError: it cannot.
    """
    if not isinstance(username, str) or not USERNAME.fullmatch(username):
        raise InvalidArgumentError(
            "a username is 1 to 128 of a-z 0-9 . _ @ + -, with a letter or digit at both ends", field="username"
        )
    return username


def check_device_id(device_id: str) -> str:
    """Return ``device_id`` if it can be one.

    Raises:
        InvalidArgumentError: it cannot.
    """
    if not isinstance(device_id, str) or not DEVICE_ID.fullmatch(device_id):
        raise InvalidArgumentError("a device_id is 16 of a-z 2-7", field="device_id")
    return device_id


def check_realm(realm: str) -> str:
    """Return ``realm`` if it can be one.

    Raises:
        InvalidArgumentError: it cannot.
    """
    if not isinstance(realm, str) or not REALM.fullmatch(realm):
        raise InvalidArgumentError(
            "a realm is 1 to 253 of a-z 0-9 . -, with a letter or digit at both ends", field="realm"
        )
    return realm


@dataclass(frozen=True, order=True)
class Address:
    """One device of a user.

    Raises:
        InvalidArgumentError: the username or the device_id cannot be one.
    """

    username: str
    device_id: str

    def __post_init__(self) -> None:
        check_username(self.username)
        check_device_id(self.device_id)

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address written as ``username/device_id``.

        Raises:
            InvalidArgumentError: ``text`` is no address.
        """
        username, _, device_id = text.partition("/")
        return cls(username, device_id)

    def __str__(self) -> str:
        return f"{self.username}/{self.device_id}"


def conversation_of(one: str, other: str) -> tuple[str, str]:
    """Return the conversation of two users: their usernames in order of their ASCII bytes."""
    return (one, other) if one <= other else (other, one)
