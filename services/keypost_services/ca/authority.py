"""What all changes of a record have in common."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from keypost.keys.v1 import key_info_pb2 as pb
from keypost_services.ca import errors
from keypost_services.ca.audit import NOWHERE, Origin
from keypost_services.ca.audit_lines import tell
from keypost_services.ca.store import (
    CodeUsedError,
    IdentityTakenError,
    KeyAlreadyKnownError,
    RevisionTakenError,
    StoreAwayError,
)
from keypost_services.runtime.auth import current_call
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from structlog.typing import FilteringBoundLogger

    from keypost.clock import Clock
    from keypost.protocol.key_requests import KeyRequest
    from keypost_services.ca.audit import AuditEntry
    from keypost_services.ca.events import EventFeed
    from keypost_services.ca.key_quality import KeyQuality
    from keypost_services.ca.nonces import Nonces
    from keypost_services.ca.policy import Policy
    from keypost_services.ca.records import Records
    from keypost_services.ca.store import Change, Store, User

R = TypeVar("R")

_DEVICE_ID_BYTES = 10
OVERTAKEN = (RevisionTakenError, KeyAlreadyKnownError, CodeUsedError, IdentityTakenError)


@dataclass(frozen=True)
class Start:
    """What a key request must contain, and the CA's time (Unix milliseconds).

    Attributes:
        kind: How the key is to enter, where that is not the method's own.
    """

    device_id: str
    ca_nonce: bytes = field(repr=False)
    epoch: int
    next_revision: int
    current_time: int
    kind: pb.KeyRequestKind.ValueType = pb.KEY_REQUEST_KIND_UNSPECIFIED


@dataclass(frozen=True)
class Authority:
    """The parts by which records change."""

    store: Store
    nonces: Nonces
    policy: Policy
    quality: KeyQuality
    records: Records
    feed: EventFeed
    clock: Clock
    log: FilteringBoundLogger

    async def find_user(self, username: str) -> User | None:
        """Return the user, if they exist."""
        return (await self.store.find_users([username])).get(username)

    async def is_recorded(self, request: KeyRequest) -> bool:
        """Whether the key of a request stands on record, as this or another user's."""
        return await self.store.find_key(request.fingerprint) is not None

    async def check_new(self, request: KeyRequest) -> None:
        """Check that the key of a request is sound, and was never recorded, for whomever.

        Raises:
            ServiceError: KEY_WEAK, KEY_ALREADY_KNOWN.
        """
        self.quality.check(request)
        if await self.is_recorded(request):
            raise errors.key_already_known()

    async def decide(self, request: KeyRequest, judge: Callable[[], Awaitable[pb.KeyInfo]]) -> pb.KeyInfo:
        """Judge a request, once more if it was overtaken while it was judged.

        Judged anew it is the repetition of what won, or refused for the right reason.

        Args:
            request: The request.
            judge: Judges it from what is stored, records its key and returns the record.

        Raises:
            ServiceError: As ``judge``; KEYS_CHANGING if it was overtaken again.
        """
        try:
            return await judge()
        except OVERTAKEN:
            return await _judge_anew(judge)
        except ServiceError:
            # A twin of the request may have come on record between two reads.
            if not await self.is_recorded(request):
                raise
            return await _judge_anew(judge)

    async def settle(self, judge: Callable[[], Awaitable[R]]) -> R:
        """Judge a statement by which no key enters, once more if it was overtaken while it was judged.

        Args:
            judge: Judges it from what is stored, makes the change and returns the answer.

        Raises:
            ServiceError: As ``judge``; KEYS_CHANGING if it was overtaken again.
        """
        try:
            return await judge()
        except OVERTAKEN:
            return await _judge_anew(judge)

    async def commit(self, change: Change) -> pb.KeyInfo:
        """Apply a change of the call that is being handled, wake the watchers, and return the record that has it.

        Raises:
            RevisionTakenError, KeyAlreadyKnownError, CodeUsedError, IdentityTakenError: As ``Store.apply``.
        """
        try:
            self.tell(await self.store.apply(replace(change, origin=origin_of_call())))
        except StoreAwayError:
            # It may have been made all the same: then this line is all that tells of it.
            self.log.warning("change_in_doubt", username=change.username, revision=change.revision)
            raise
        self.feed.announce()
        user = await self.find_user(change.username)
        if user is None:
            raise AssertionError("a user that was just recorded is gone")
        return await self.records.sign(user)

    def tell(self, entries: Sequence[AuditEntry]) -> None:
        """Log a change that was made."""
        tell(self.log, entries)


def origin_of_call() -> Origin:
    """Return where the call comes from that is being handled; nothing where none is."""
    try:
        call = current_call()
    except LookupError:
        return NOWHERE
    return Origin(call.caller.peer, call.request_id)


def draw_device_id(random: Callable[[int], bytes]) -> str:
    """Return a device id that was never drawn before: 80 random bits.

    Args:
        random: Returns that many random bytes.
    """
    return base64.b32encode(random(_DEVICE_ID_BYTES)).decode().lower()


async def _judge_anew(judge: Callable[[], Awaitable[R]]) -> R:
    try:
        return await judge()
    except OVERTAKEN as error:
        raise errors.keys_changing() from error
