"""What an application may ask of the outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.client.base import ClientBase

if TYPE_CHECKING:
    from keypost.client.results import Outgoing


class OutboxCalls(ClientBase):
    """The methods about messages that are on their way."""

    async def outbox(self) -> tuple[Outgoing, ...]:
        """Return what is on its way: kept here until delivery has stored it, ordered by when it was to be sent.

        What an earlier failure or crash left goes out by itself, while a client is open; see ``flush``.
        """
        async with self._working(copy_too=True):
            return await self._parts.sending.outbox()

    async def flush(self) -> tuple[Outgoing, ...]:
        """Send what is on its way, and wait until all of it is stored or nothing more can be done now.

        Returns:
            What remains; nothing, if all of it is stored. Why a message remains, an event of kind ``waiting`` has said;
            one that was refused for good is taken out, as an event of kind ``error`` says.

        Raises:
            NotEnrolledError: this profile has no key yet.
            KeypostError: this device may not act, such as KEY_REVOKED.
        """
        async with self._working():
            _ = self._parts.identity.current
            return await self._parts.sending.flush()
