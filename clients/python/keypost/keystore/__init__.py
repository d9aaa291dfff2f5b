"""The local key store: what a client keeps on its device, sealed.

``create_store`` and ``open_store`` return a ``KeyStore`` (see ``keypost.keystore.port``), unlocked by a
``Passphrase``, a ``KeyFile``, a ``KeyVariable`` or the ``SystemKeyRing``.
"""

from __future__ import annotations

from keypost.keystore.errors import (
    KeyRingUnavailableError,
    KeyStoreConflictError,
    KeyStoreEmptyError,
    KeyStoreError,
    KeyStoreExistsError,
    KeyStoreFormatError,
    KeyStoreFullError,
    KeyStoreLockedError,
    KeyStoreMissingError,
    KeyStoreTamperedError,
    KeyStoreUnavailableError,
    NotAKeyStoreError,
    WrongPassphraseError,
)
from keypost.keystore.port import KeyStore
from keypost.keystore.store import create_memory_store, create_store, open_store
from keypost.keystore.system_key_ring import SystemKeyRing
from keypost.keystore.unlock import Argon2Cost, KeyFile, KeyVariable, Passphrase, Unlock
from keypost.keystore.values import Limits

__all__ = [
    "Argon2Cost",
    "KeyFile",
    "KeyRingUnavailableError",
    "KeyStore",
    "KeyStoreConflictError",
    "KeyStoreEmptyError",
    "KeyStoreError",
    "KeyStoreExistsError",
    "KeyStoreFormatError",
    "KeyStoreFullError",
    "KeyStoreLockedError",
    "KeyStoreMissingError",
    "KeyStoreTamperedError",
    "KeyStoreUnavailableError",
    "KeyVariable",
    "Limits",
    "NotAKeyStoreError",
    "Passphrase",
    "SystemKeyRing",
    "Unlock",
    "WrongPassphraseError",
    "create_memory_store",
    "create_store",
    "open_store",
]
