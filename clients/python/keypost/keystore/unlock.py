"""What unlocks a local key store: a passphrase, a key file, or a variable of the environment.

The system's key ring is in ``keypost.keystore.system_key_ring``.

Each yields the 32-byte key under which the store's random data key is sealed. What is needed to derive it again (kind,
salt, cost) lies beside the sealed data key in the clear, and is authenticated by it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from keypost.errors import InvalidArgumentError
from keypost.keystore.errors import KeyStoreTamperedError, WrongPassphraseError
from keypost.keystore.private_files import new_private

KEY_BYTES = 32
SALT_BYTES = 16
NO_PARAMETERS = "{}"
MAX_MEMORY = 4 * 1024 * 1024  # KiB
MAX_ITERATIONS = 64
MAX_LANES = 64


class Unlock(Protocol):
    """What unlocks a local key store.

    Attributes:
        kind: The word for it, kept with the store.
        wrong: What to tell whoever offers one of this kind that belongs to another store.
    """

    kind: ClassVar[str]
    wrong: ClassVar[str]

    def prepare(self) -> str:
        """Return fresh parameters for a new store, as JSON; kept beside it in the clear, authenticated. May block."""
        ...

    def derive(self, parameters: str) -> bytes | bytearray:
        """Return the key, 32 bytes, for the parameters that ``prepare`` returned when the store was made. May block.

        A ``bytearray`` is wiped once the store is open.

        Raises:
            KeyStoreError: It cannot be had.
        """
        ...


@dataclass(frozen=True)
class Argon2Cost:
    """How much a guess at a passphrase costs (Argon2id, RFC 9106, section 4).

    Attributes:
        memory: In KiB.
        iterations: Passes over the memory.
        lanes: Degree of parallelism.
    """

    memory: int = 64 * 1024
    iterations: int = 3
    lanes: int = 4

    def is_bearable(self) -> bool:
        """Return whether a machine can be asked for it: a changed file must not exhaust the memory."""
        return (
            1 <= self.lanes <= MAX_LANES
            and 1 <= self.iterations <= MAX_ITERATIONS
            and 8 * self.lanes <= self.memory <= MAX_MEMORY
        )


@dataclass(frozen=True)
class Passphrase:
    """Unlock with something that a person remembers.

    Attributes:
        passphrase: At least one character; normalised (NFC), so that every keyboard types the same one.
        cost: What a new store's guesses shall cost; an existing store has its own.
    """

    kind: ClassVar[str] = "passphrase"
    wrong: ClassVar[str] = "the passphrase is wrong for this profile"

    passphrase: str = field(repr=False)
    cost: Argon2Cost = Argon2Cost()

    def prepare(self) -> str:
        """Return fresh parameters for a new store, as JSON.

        Raises:
            InvalidArgumentError: The passphrase is empty.
        """
        if not self.passphrase:
            raise InvalidArgumentError("an empty passphrase protects nothing; choose one", field="passphrase")
        salt = secrets.token_bytes(SALT_BYTES).hex()
        cost = self.cost
        return json.dumps({"salt": salt, "memory": cost.memory, "iterations": cost.iterations, "lanes": cost.lanes})

    def derive(self, parameters: str) -> bytearray:
        """Return the key, 32 bytes.

        Args:
            parameters: What ``prepare`` returned when the store was made.

        Raises:
            KeyStoreTamperedError: The parameters are none that ``prepare`` returns.
        """
        salt, cost = _read_parameters(parameters)
        kdf = Argon2id(
            salt=salt,
            length=KEY_BYTES,
            iterations=cost.iterations,
            lanes=cost.lanes,
            memory_cost=cost.memory,
        )
        key = bytearray(KEY_BYTES)
        kdf.derive_into(unicodedata.normalize("NFC", self.passphrase).encode(), key)
        return key


def _read_parameters(parameters: str) -> tuple[bytes, Argon2Cost]:
    try:
        values = json.loads(parameters)
        salt = bytes.fromhex(values["salt"])
        cost = Argon2Cost(int(values["memory"]), int(values["iterations"]), int(values["lanes"]))
    except (ValueError, KeyError, TypeError) as error:
        raise KeyStoreTamperedError("the profile's passphrase parameters are damaged; restore a backup") from error
    if len(salt) != SALT_BYTES or not cost.is_bearable():
        raise KeyStoreTamperedError("the profile's passphrase parameters were changed; restore a backup")
    return salt, cost


@dataclass(frozen=True)
class KeyFile:
    """Unlock with a file of exactly 32 random bytes; made, readable by its owner alone, with a new store.

    Attributes:
        path: The file. Keep it apart from the profile.
    """

    kind: ClassVar[str] = "key-file"
    wrong: ClassVar[str] = "this key file belongs to another profile; name the one made with this profile"

    path: Path

    def prepare(self) -> str:
        """Make the file unless it is there, and return the parameters of a new store: none.

        Raises:
            WrongPassphraseError: It cannot be made.
        """
        path = Path(self.path)
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with new_private(path) as file:
                    file.write(secrets.token_bytes(KEY_BYTES))
        except OSError as error:
            raise WrongPassphraseError(f"the key file {path} cannot be made: {error.strerror}") from error
        return NO_PARAMETERS

    def derive(self, parameters: str) -> bytearray:  # noqa: ARG002  # every kind derives alike
        """Return the key, 32 bytes.

        Raises:
            WrongPassphraseError: The file cannot be read, or is no key file.
        """
        key = bytearray(KEY_BYTES + 1)
        try:
            with Path(self.path).open("rb", buffering=0) as file:
                del key[file.readinto(key) or 0 :]
        except OSError as error:
            raise WrongPassphraseError(f"the key file {self.path} cannot be read: {error.strerror}") from error
        if len(key) != KEY_BYTES:
            raise WrongPassphraseError(f"{self.path} is no key file: one has exactly {KEY_BYTES} bytes")
        return key


@dataclass(frozen=True)
class KeyVariable:
    """Unlock with a variable of the environment that holds 32 random bytes in base64, for services.

    Attributes:
        name: The name of the variable.
    """

    kind: ClassVar[str] = "key-variable"
    wrong: ClassVar[str] = "the key in this variable belongs to another profile; set the one of this profile"

    name: str

    def prepare(self) -> str:
        """Return the parameters of a new store: none."""
        return NO_PARAMETERS

    def derive(self, parameters: str) -> bytes:  # noqa: ARG002  # every kind derives alike
        """Return the key, 32 bytes.

        Raises:
            WrongPassphraseError: The variable is not set, or does not hold 32 bytes in base64.
        """
        text = os.environ.get(self.name)
        if text is None:
            raise WrongPassphraseError(f"the variable {self.name} is not set; it must hold 32 bytes in base64")
        try:
            key = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            # The cause would quote the variable's text, hence "from None".
            raise WrongPassphraseError(f"the variable {self.name} does not hold 32 bytes in base64") from None
        return key
