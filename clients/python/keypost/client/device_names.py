"""Private names of the own user's devices: labels in the sealed key store of this device, which no server sees."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keypost.errors import InvalidArgumentError
from keypost.protocol.identifiers import DEVICE_ID

if TYPE_CHECKING:
    from keypost.keystore.port import KeyStore

NAMES = "device-names"
"""The note with the names."""
LONGEST_NAME = 64

DeviceNames = Mapping[str, str]
"""Names by device id."""


def check_name(name: Any) -> str:
    """Return a name: 1 to 64 characters that can be shown, none of them white space but single blanks within.

    Raises:
        InvalidArgumentError: it is none, or looks like a device id.
    """
    if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_NAME:
        raise InvalidArgumentError(f"a name has 1 to {LONGEST_NAME} characters", field="name")
    if not name.isprintable() or name != " ".join(name.split()):
        raise InvalidArgumentError("a name is made of characters that can be shown, and single blanks", field="name")
    if DEVICE_ID.fullmatch(name):
        raise InvalidArgumentError("this name looks like a device id: choose another", field="name")
    return name


def read_names(store: KeyStore) -> DeviceNames:
    """Return the names that this device has given."""
    note = store.profile.note(NAMES)
    return {} if note is None else json.loads(note)


def write_name(store: KeyStore, device_id: str, name: str | None, known: frozenset[str]) -> None:
    """Name a device, or take its name away; within a transaction.

    Args:
        store: The key store.
        device_id: The device.
        name: Its name; None for none.
        known: The devices that the record names: the names of others go.

    Raises:
        InvalidArgumentError: another device has that name.
    """
    names = {key: value for key, value in read_names(store).items() if key in known and key != device_id}
    if name is not None:
        if name in names.values():
            raise InvalidArgumentError("another of your devices has this name", field="name")
        names[device_id] = name
    store.profile.set_note(NAMES, json.dumps(names).encode())
