"""What can be wrong with a local key store, each with a sentence that says what to do."""

from __future__ import annotations

from keypost.errors import KeypostError


class KeyStoreError(KeypostError):
    """Base of all errors of the local key store."""

    reason = "KEY_STORE"


class WrongPassphraseError(KeyStoreError):
    """The passphrase, key file, key variable or key ring entry does not unlock this profile, or cannot be read."""

    reason = "WRONG_PASSPHRASE"


class KeyRingUnavailableError(KeyStoreError):
    """The system's key ring cannot be used: there is none, its library is missing, or it is locked or refuses."""

    reason = "KEY_RING_UNAVAILABLE"


class KeyStoreTamperedError(KeyStoreError):
    """A sealed value does not belong where it stands, or the file is damaged."""

    reason = "KEY_STORE_TAMPERED"


class KeyStoreMissingError(KeyStoreError):
    """There is no profile at that place."""

    reason = "KEY_STORE_MISSING"


class KeyStoreEmptyError(KeyStoreMissingError):
    """There is a file at that place, and nothing is in it."""

    reason = "KEY_STORE_EMPTY"


class NotAKeyStoreError(KeyStoreError):
    """What is at that place is something else."""

    reason = "NOT_A_KEY_STORE"


class KeyStoreExistsError(KeyStoreError):
    """There is a profile at that place already."""

    reason = "KEY_STORE_EXISTS"


class KeyStoreFormatError(KeyStoreError):
    """A newer version of Keypost wrote this profile."""

    reason = "KEY_STORE_FORMAT"


class KeyStoreLockedError(KeyStoreError):
    """Another process uses this profile."""

    reason = "KEY_STORE_LOCKED"


class KeyStoreConflictError(KeyStoreError):
    """What is to be written contradicts what is there, such as a second statement of a signer."""

    reason = "KEY_STORE_CONFLICT"


class KeyStoreFullError(KeyStoreError):
    """A list that others can fill has reached its limit; ``metadata["list"]`` names it."""

    reason = "KEY_STORE_FULL"


class KeyStoreUnavailableError(KeyStoreError):
    """The disk does not do what it should: full, read-only, gone; or the store is closed."""

    reason = "KEY_STORE_UNAVAILABLE"


class BackupError(KeyStoreError):
    """Base of what can be wrong with the file of a backup."""

    reason = "BACKUP"


class NotABackupError(BackupError):
    """What is in the file is something else, or nothing."""

    reason = "NOT_A_BACKUP"


class BackupDamagedError(BackupError):
    """The backup is cut, or something in it was changed."""

    reason = "BACKUP_DAMAGED"


class BackupFormatError(BackupError):
    """A newer version of Keypost made this backup."""

    reason = "BACKUP_FORMAT"


class BackupExistsError(BackupError):
    """Something is at the place of a new backup, and is not overwritten."""

    reason = "BACKUP_EXISTS"


class BackupUnavailableError(BackupError):
    """The file of a backup cannot be read or written."""

    reason = "BACKUP_UNAVAILABLE"
