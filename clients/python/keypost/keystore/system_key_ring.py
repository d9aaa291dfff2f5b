"""The system's key ring as what unlocks a local key store: no passphrase, no file, only the user's own login.

It is the Keychain of macOS, the Credential Locker of Windows, the Secret Service or KWallet elsewhere, reached through
the library ``keyring`` (the extra ``keyring``).
"""

from __future__ import annotations

import json
import re
import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from keypost.keystore.errors import KeyRingUnavailableError, KeyStoreTamperedError, WrongPassphraseError
from keypost.keystore.unlock import KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from keyring.backend import KeyringBackend

SERVICE = "keypost"
ENTRY_BYTES = 16
INSTALL = "pip install 'keypost[keyring]'"
_ENTRY = re.compile(f"[0-9a-f]{{{2 * ENTRY_BYTES}}}")
_KEY = re.compile(f"[0-9a-f]{{{2 * KEY_BYTES}}}")


@dataclass(frozen=True)
class SystemKeyRing:
    """Unlock with an entry of the system's key ring: 32 random bytes, made with a new store, one entry a store.

    Taken are only back ends that ``keyring`` itself recommends (priority 1 or more): never one that keeps nothing, or
    keeps it in a file in plain text, even if it is configured. Hand over another one as ``backend`` if you want it.

    The entry belongs to this login on this machine: a profile that is copied elsewhere does not open there. It stays
    in the key ring, of no more use, when the profile is deleted or unlocked by something else.

    Attributes:
        backend: The key ring to use, as it is, instead of the system's.
    """

    kind: ClassVar[str] = "system-key-ring"
    wrong: ClassVar[str] = "the key ring's entry for this profile was changed; restore a backup of the key ring"

    backend: KeyringBackend | None = field(default=None, repr=False)

    def prepare(self) -> str:
        """Make an entry for a new store, and return its name as the parameters. May block, and ask the user.

        Raises:
            KeyRingUnavailableError: There is no key ring, or it is locked or refuses.
        """
        entry = secrets.token_hex(ENTRY_BYTES)
        with _explained():
            self._backends()[0].set_password(SERVICE, entry, secrets.token_hex(KEY_BYTES))
        return json.dumps({"entry": entry})

    def derive(self, parameters: str) -> bytearray:
        """Return the key, 32 bytes. May block, and ask the user.

        Raises:
            KeyRingUnavailableError: There is no key ring, or it is locked or refuses.
            WrongPassphraseError: It has no such entry, or the entry is no key.
            KeyStoreTamperedError: The parameters are none that ``prepare`` returns.
        """
        entry = _read_parameters(parameters)
        with _explained():
            found = (backend.get_password(SERVICE, entry) for backend in self._backends())
            key = next((text for text in found if text is not None), None)
        if key is None:
            raise WrongPassphraseError(
                "the key ring has no entry for this profile: it was made by another login or on another machine, "
                "or the entry was deleted"
            )
        if _KEY.fullmatch(key) is None:
            raise WrongPassphraseError(self.wrong)
        return bytearray.fromhex(key)

    def _backends(self) -> Sequence[KeyringBackend]:
        return _recommended() if self.backend is None else [self.backend]


def _recommended() -> Sequence[KeyringBackend]:
    """Return the system's key rings, the one to write to first."""
    from keyring import core  # noqa: PLC0415  # an extra, and slow to import
    from keyring.backends.chainer import ChainerBackend  # noqa: PLC0415

    chosen = core.get_keyring()
    # The chain would fall back on what is not recommended.
    candidates = list(ChainerBackend.backends) if isinstance(chosen, ChainerBackend) else [chosen]
    if not (found := [backend for backend in candidates if core.recommended(backend)]):
        raise KeyRingUnavailableError(
            f"this system has no key ring that keeps secrets (found: {type(chosen).__module__}); is a desktop session "
            "with its key ring running?",
        )
    return found


@contextmanager
def _explained() -> Iterator[None]:
    """Say what is wrong with the key ring."""
    try:
        yield
    except KeyRingUnavailableError:
        raise
    except ModuleNotFoundError as error:
        raise KeyRingUnavailableError(f"the system key ring needs a library; install it with:  {INSTALL}") from error
    except Exception as error:  # noqa: BLE001  # back ends raise whatever their systems do
        from keyring.errors import KeyringLocked  # noqa: PLC0415  # an extra

        what = "is locked" if isinstance(error, KeyringLocked) else "refuses or does not answer"
        sentence = f"the system key ring {what} ({type(error).__name__}); unlock it, allow Keypost in, and try again"
        # The cause's own words might quote what was to be kept.
        raise KeyRingUnavailableError(sentence) from None


def _read_parameters(parameters: str) -> str:
    try:
        entry = json.loads(parameters)["entry"]
    except (ValueError, KeyError, TypeError) as error:
        raise KeyStoreTamperedError("the profile's key ring parameters are damaged; restore a backup") from error
    if not isinstance(entry, str) or _ENTRY.fullmatch(entry) is None:
        raise KeyStoreTamperedError("the profile's key ring parameters were changed; restore a backup")
    return entry
