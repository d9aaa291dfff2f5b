"""Keypost: the SDK of an end-to-end encrypted message service (see README.md)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keypost import sync
    from keypost.client import (
        BackupStaleError,
        Client,
        Event,
        FileTransfer,
        NotEnrolledError,
        Outgoing,
        Received,
        ReceivedFile,
        SafetyNumber,
        Sent,
        SentFile,
        SetAside,
        WaitingElsewhere,
        restore_profile,
    )
    from keypost.errors import InvalidArgumentError, KeypostError, RefusedError, UnreachableError
    from keypost.keystore.errors import KeyStoreError, WrongPassphraseError
    from keypost.keystore.system_key_ring import SystemKeyRing
    from keypost.keystore.unlock import KeyFile, KeyVariable, Passphrase, Unlock
    from keypost.keystore.values import Evidence
    from keypost.protocol.errors import IdentityChangedError, ProtocolError, SafetyNumberDiffersError
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import Key, KeyRecord
    from keypost.protocol.steps import Observer, Step
    from keypost.protocol.suites import STRONG, WEAK

_HOMES = {
    "keypost.client": (
        "BackupStaleError",
        "Client",
        "Event",
        "FileTransfer",
        "NotEnrolledError",
        "Received",
        "ReceivedFile",
        "SafetyNumber",
        "Outgoing",
        "Sent",
        "SentFile",
        "SetAside",
        "WaitingElsewhere",
        "restore_profile",
    ),
    "keypost.errors": ("InvalidArgumentError", "KeypostError", "RefusedError", "UnreachableError"),
    "keypost.keystore.errors": ("KeyStoreError", "WrongPassphraseError"),
    "keypost.keystore.system_key_ring": ("SystemKeyRing",),
    "keypost.keystore.unlock": ("KeyFile", "KeyVariable", "Passphrase", "Unlock"),
    "keypost.keystore.values": ("Evidence",),
    "keypost.protocol.errors": ("IdentityChangedError", "ProtocolError", "SafetyNumberDiffersError"),
    "keypost.protocol.identifiers": ("Address",),
    "keypost.protocol.key_info": ("Key", "KeyRecord"),
    "keypost.protocol.steps": ("Observer", "Step"),
    "keypost.protocol.suites": ("STRONG", "WEAK"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "STRONG",
    "WEAK",
    "Address",
    "BackupStaleError",
    "Client",
    "Event",
    "Evidence",
    "FileTransfer",
    "IdentityChangedError",
    "InvalidArgumentError",
    "Key",
    "KeyFile",
    "KeyRecord",
    "KeyStoreError",
    "KeyVariable",
    "KeypostError",
    "NotEnrolledError",
    "Observer",
    "Outgoing",
    "Passphrase",
    "ProtocolError",
    "Received",
    "ReceivedFile",
    "RefusedError",
    "SafetyNumber",
    "SafetyNumberDiffersError",
    "Sent",
    "SentFile",
    "SetAside",
    "Step",
    "SystemKeyRing",
    "Unlock",
    "UnreachableError",
    "WaitingElsewhere",
    "WrongPassphraseError",
    "restore_profile",
    "sync",
]


def __getattr__(name: str) -> Any:
    # Services import keypost.protocol only: the client and what it needs load when they are named.
    if name == "sync":
        return import_module("keypost.sync")
    if (home := _HOME_OF.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
