"""What the client returns where it differs from the asyncio one: a file's bytes come from a plain iterator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keypost.client import results

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@dataclass(frozen=True)
class ReceivedFile(results.ReceivedFile):
    """A file that has arrived whole; see ``keypost.ReceivedFile``."""

    _pieces: Callable[[], Generator[bytes]] = field(repr=False, compare=False)

    def chunks(self) -> Generator[bytes]:  # type: ignore[override]  # who has this client has no event loop
        """Return the bytes, piece by piece; one piece is in memory at a time.

        The client forgets them once the message counts as handled.
        """
        return self._pieces()


@dataclass(frozen=True)
class Received(results.Received):
    """A message that was opened and verified; see ``keypost.Received``."""

    file: ReceivedFile | None
