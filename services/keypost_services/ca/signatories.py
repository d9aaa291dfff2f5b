"""Who signs what is no key request: revocations, and cancellations of identity resets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from keypost.protocol.errors import SignatureInvalidError
from keypost.protocol.identifiers import Address
from keypost.protocol.key_requests import KeyRequest, read_key_request
from keypost_services.ca.audit import Actor, ActorKind
from keypost_services.ca.convert import signed_request_message
from keypost_services.ca.policy import is_good

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from keypost_services.ca.store import RecordedKey, User
    from keypost_services.runtime.errors import ServiceError


class Signatory(Protocol):
    """Who signed a statement about a user's keys."""

    def verify(self, user: User | None) -> User:
        """Verify the signature, whoever may act by it, and return the user.

        Args:
            user: The user that the statement is about, if they exist.

        Raises:
            ServiceError: The signature is not the signatory's, or they have nothing to say about this user.
        """
        ...

    def check_may_act(self, user: User, now: int) -> None:
        """Check that the signatory may change this user's keys now.

        Raises:
            ServiceError: They may not (any more).
        """
        ...

    def actor(self, user: User) -> Actor:
        """Return how the audit log names the signatory, with what they signed; once the signature is verified."""
        ...


@dataclass(frozen=True)
class DeviceSignatory:
    """A device of the user.

    Attributes:
        fingerprint: The key that the statement says has signed it, 32 bytes.
        device_id: The device that the statement says has signed it; None: the statement does not say.
        evidence: The signed statement, serialised.
        verify_with: Verifies the signature with a key; raises SignatureInvalidError.
        allowed_suites: The suites that the realm allows.
        refusal: Makes the one answer to all that is not signed by a key that may act.
    """

    fingerprint: bytes
    evidence: bytes = field(repr=False)
    verify_with: Callable[[KeyRequest], None]
    allowed_suites: Container[int]
    refusal: Callable[[], ServiceError]
    device_id: str | None = None

    def verify(self, user: User | None) -> User:
        """Verify that a key of the user signed, in whatever state it is."""
        if user is None:
            raise self.refusal()
        key = self._key_of(user)
        try:
            self.verify_with(read_key_request(signed_request_message(key)))
        except SignatureInvalidError as error:
            raise self.refusal() from error
        return user

    def check_may_act(self, user: User, now: int) -> None:
        """Check that the key is good, unexpired, and of a suite that the realm allows."""
        key = self._key_of(user)
        if not is_good(key) or now >= key.expire_time or key.suite not in self.allowed_suites:
            raise self.refusal()

    def actor(self, user: User) -> Actor:
        """Return the device, with what it signed."""
        return Actor(ActorKind.DEVICE, str(Address(user.username, self._key_of(user).device_id)), self.evidence)

    def _key_of(self, user: User) -> RecordedKey:
        key = user.find(self.fingerprint)
        if key is None or self.device_id not in (None, key.device_id):
            raise self.refusal()
        return key
