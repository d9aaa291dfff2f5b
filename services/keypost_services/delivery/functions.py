"""The library of server functions behind the mailboxes: its text, its names, and how it is called."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

MISSING = "Function not found"


@dataclass(frozen=True)
class Call:
    """A command on one mailbox. Each may be repeated: twice does what once does.

    Attributes:
        key: A key of the mailbox.
        command: The words of the command.
    """

    key: str
    command: tuple[Any, ...]


class FunctionLibrary:
    """The functions of ``mailboxes.lua``, named after the content of the file so that versions live side by side."""

    def __init__(self) -> None:
        template = resources.files(__package__).joinpath("mailboxes.lua").read_text(encoding="utf-8")
        version = hashlib.sha256(template.encode()).hexdigest()[:12]
        self._prefix = f"keypost_{version}_"
        self.text = template.replace("@LIBRARY@", f"keypost_{version}").replace("@PREFIX@", self._prefix)

    def call(self, name: str, keys: Sequence[str], *args: str | bytes | int) -> Call:
        """Return the call of a function."""
        return Call(keys[0], ("FCALL", self._prefix + name, len(keys), *keys, *args))

    async def load(self, client: Redis) -> None:
        """Put the functions on the server; to do it again is harmless."""
        await client.function_load(self.text, replace=True)


def is_missing(error: object) -> bool:
    """Return whether an error says that the server does not have the functions (it lost its data, or was replaced)."""
    return isinstance(error, ResponseError) and MISSING in str(error)
