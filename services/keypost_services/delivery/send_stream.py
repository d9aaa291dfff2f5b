"""SendStream: what holds between the envelopes of one stream; each for itself is ``sending``'s.

An envelope that is not stored holds back all later ones of its conversation at its revisions, so that none overtakes
it, until the sender has read of it and takes the conversation up again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost_services.delivery.errors import mailboxes_unavailable
from keypost_services.delivery.mailboxes import MailboxesUnavailableError
from keypost_services.delivery.sending import Stale, Stored
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from keypost.protocol.envelope import SealedEnvelope
    from keypost.protocol.key_info import Key
    from keypost_services.delivery.sending import Sending


@dataclass(frozen=True)
class Held:
    """The envelope was not looked at: an earlier one of its conversation was not stored."""


Result = Stored | Stale | ServiceError | Held
"""What became of one envelope."""


class SendStream:
    """One stream of one device.

    Args:
        sending: Takes envelopes in.
        caller: The key by which the device showed itself.
        mailboxes_failed: Told why, when the mailboxes cannot be reached.
    """

    def __init__(self, sending: Sending, caller: Key, mailboxes_failed: Callable[[str], None]) -> None:
        self._sending = sending
        self._caller = caller
        self._mailboxes_failed = mailboxes_failed
        self._held: set[tuple[str, int, int]] = set()

    def resume(self, recipients: Collection[str]) -> None:
        """Hold nothing to these recipients any longer."""
        if recipients:
            self._held = {held for held in self._held if held[0] not in recipients}

    async def send(self, reads: Sequence[Callable[[], SealedEnvelope]]) -> Sequence[Result]:
        """Return what becomes of the envelopes of one batch, in their order.

        Args:
            reads: Read one envelope each.
        """
        return [await self._send(read) for read in reads]

    async def _send(self, read: Callable[[], SealedEnvelope]) -> Result:
        try:
            sealed = read()
        except ServiceError as error:
            # Of no conversation that could be told.
            return error
        header = sealed.header
        conversation = (header.recipient_username, header.sender_revision, header.recipient_revision)
        if conversation in self._held:
            return Held()
        result = await self._judged(sealed)
        if not isinstance(result, Stored):
            self._held.add(conversation)
        return result

    async def _judged(self, sealed: SealedEnvelope) -> Stored | Stale | ServiceError:
        try:
            return await self._sending.send(self._caller, sealed)
        except ServiceError as error:
            return error
        except MailboxesUnavailableError as error:
            self._mailboxes_failed(str(error))
            return mailboxes_unavailable(error)
