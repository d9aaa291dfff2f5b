"""How values are sealed at rest: XAES-256-GCM, bound to the place where they stand.

XAES-256-GCM (C2SP) is AES-256-GCM under a key derived for each value from the first half of a 24-byte nonce, so that
one data key can seal any number of values under random nonces; plain AES-GCM is limited to 2^32, which a busy service
reaches in days. The place (table, column, row and what must not change in the row) is authenticated: a value
that is moved, or whose row is edited, does not open.
"""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from keypost.keystore.errors import KeyStoreTamperedError, KeyStoreUnavailableError, WrongPassphraseError
from keypost.keystore.unlock import KEY_BYTES, Unlock
from keypost.protocol.encoding import pae

NONCE_BYTES = 24
TAG_BYTES = 16
VALUE_LABEL = b"keypost/v1/keystore/value"
DATA_KEY_LABEL = b"keypost/v1/keystore/data-key"

Place = tuple[str | int | bytes, ...]
"""Table, column, and the columns of the row that the value is bound to."""


def wipe(secret: bytes | bytearray) -> None:
    """Overwrite a secret with zeros where Python lets us: a ``bytearray``; ``bytes`` cannot be changed."""
    if isinstance(secret, bytearray):
        secret[:] = bytes(len(secret))


def _message_cipher(key: bytes | bytearray, nonce: bytes) -> AESGCM:
    """Return the cipher for one nonce (XAES-256-GCM, key derivation)."""
    derived = bytearray()
    for counter in (b"\x00\x01", b"\x00\x02"):
        mac = CMAC(AES(key))
        mac.update(counter + b"X\x00" + nonce[:12])
        derived += mac.finalize()
    try:
        return AESGCM(derived)
    finally:
        wipe(derived)


def xaes_encrypt(key: bytes | bytearray, nonce: bytes, plaintext: bytes | bytearray, aad: bytes) -> bytes:
    """Return ciphertext and tag; ``key`` is 32 bytes, ``nonce`` 24 that never return."""
    return _message_cipher(key, nonce).encrypt(nonce[12:], plaintext, aad)


def xaes_decrypt(key: bytes | bytearray, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes:
    """Return the plaintext.

    Raises:
        InvalidTag: Key, nonce, ciphertext or ``aad`` is not what was encrypted.
    """
    return _message_cipher(key, nonce).decrypt(nonce[12:], ciphertext, aad)


def xaes_decrypt_key(key: bytes | bytearray, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytearray:
    """Return the plaintext in memory that can be wiped.

    Raises:
        InvalidTag, ValueError: as ``xaes_decrypt``, or the ciphertext is too short.
    """
    plaintext = bytearray(max(0, len(ciphertext) - TAG_BYTES))
    _message_cipher(key, nonce).decrypt_into(nonce[12:], ciphertext, aad, plaintext)
    return plaintext


def _place_bytes(place: Place) -> bytes:
    pieces = [piece if isinstance(piece, bytes) else str(piece).encode() for piece in place]
    return pae(VALUE_LABEL, *pieces)


class Sealer:
    """Seals and opens values under the data key of one store.

    Args:
        data_key: 32 bytes; the sealer wipes them when it is closed.
    """

    def __init__(self, data_key: bytearray) -> None:
        self._data_key: bytearray | None = data_key

    def seal(self, place: Place, value: bytes) -> bytes:
        """Return ``value`` sealed: nonce (24 bytes), ciphertext, tag (16 bytes)."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + xaes_encrypt(self._key(), nonce, value, _place_bytes(place))

    def open(self, place: Place, sealed: bytes) -> bytes:
        """Return the value that was sealed for this place.

        Raises:
            KeyStoreTamperedError: It was not.
        """
        key = self._key()
        try:
            return xaes_decrypt(key, sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _place_bytes(place))
        except (InvalidTag, ValueError, TypeError) as error:
            table, column = str(place[0]), str(place[1])
            raise KeyStoreTamperedError(
                f"the profile was changed from outside ({table}, {column}); restore a backup",
                table=table,
                column=column,
            ) from error

    def seal_data_key(self, unlock: Unlock) -> tuple[str, bytes]:
        """Return the unlock parameters and the data key sealed under what unlocks it."""
        parameters = unlock.prepare()
        nonce = secrets.token_bytes(NONCE_BYTES)
        aad = _data_key_aad(unlock, parameters)
        key = unlock.derive(parameters)
        try:
            return parameters, nonce + xaes_encrypt(key, nonce, self._key(), aad)
        finally:
            wipe(key)

    def copy_data_key(self) -> bytearray:
        """Return the data key, for a backup; whoever takes it wipes it."""
        return bytearray(self._key())

    def close(self) -> None:
        """Wipe the data key; nothing can be sealed or opened any more."""
        key, self._data_key = self._data_key, None
        if key is not None:
            wipe(key)

    def _key(self) -> bytearray:
        if self._data_key is None:
            raise KeyStoreUnavailableError("the profile is closed; open it again")
        return self._data_key


def new_sealer() -> Sealer:
    """Return a sealer with a fresh random data key."""
    return Sealer(bytearray(secrets.token_bytes(KEY_BYTES)))


def open_sealer(unlock: Unlock, kind: str, parameters: str, sealed_data_key: bytes) -> Sealer:
    """Return the sealer of an existing store.

    Args:
        unlock: What the user offers.
        kind: What the store was sealed with.
        parameters: What ``Unlock.prepare`` returned then.
        sealed_data_key: What ``Sealer.seal_data_key`` returned then.

    Raises:
        WrongPassphraseError: It does not unlock this store.
        KeyStoreTamperedError: The parameters were changed.
    """
    if unlock.kind != kind:
        raise WrongPassphraseError(
            f"this profile is unlocked by {_for_people(kind)}, not by {_for_people(unlock.kind)}"
        )
    key = unlock.derive(parameters)
    nonce, ciphertext = sealed_data_key[:NONCE_BYTES], sealed_data_key[NONCE_BYTES:]
    try:
        return Sealer(xaes_decrypt_key(key, nonce, ciphertext, _data_key_aad(unlock, parameters)))
    except (InvalidTag, ValueError) as error:
        raise WrongPassphraseError(unlock.wrong) from error
    finally:
        wipe(key)


def _for_people(kind: str) -> str:
    return {"system-key-ring": "the system key ring"}.get(kind, f"a {kind.replace('-', ' ')}")


def _data_key_aad(unlock: Unlock, parameters: str) -> bytes:
    return pae(DATA_KEY_LABEL, unlock.kind.encode(), parameters.encode())
