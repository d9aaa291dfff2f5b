"""Key rings for tests, behind the interface of the library ``keyring``: in memory, or in a file for several processes.

``PYTHON_KEYRING_BACKEND=support.key_ring.FileKeyRing`` makes a process use the file named by ``KEY_RING_FILE``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import ClassVar

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError


class MemoryKeyRing(KeyringBackend):
    """A key ring in memory; ``trouble`` is raised by every call while it is set."""

    priority: ClassVar[float] = 5

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: dict[tuple[str, str], str] = {}
        self.trouble: Exception | None = None

    def get_password(self, service: str, username: str) -> str | None:
        self._check()
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._check()
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._check()
        if self.entries.pop((service, username), None) is None:
            raise PasswordDeleteError("no such entry")

    def lock(self) -> None:
        """Refuse, as a locked key ring does, until ``trouble`` is None again."""
        self.trouble = KeyringLocked("locked")

    def _check(self) -> None:
        if self.trouble is not None:
            raise self.trouble


class PoorKeyRing(MemoryKeyRing):
    """A key ring that the library does not recommend, such as a plain file."""

    priority: ClassVar[float] = 0.5


class FileKeyRing(MemoryKeyRing):
    """A key ring that several processes share, through a file."""

    def get_password(self, service: str, username: str) -> str | None:
        return dict(self._read()).get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self._path().write_text(json.dumps(self._read() | {f"{service}/{username}": password}))

    def _path(self) -> Path:
        return Path(os.environ["KEY_RING_FILE"])

    def _read(self) -> dict[str, str]:
        return dict(json.loads(self._path().read_text())) if self._path().exists() else {}
