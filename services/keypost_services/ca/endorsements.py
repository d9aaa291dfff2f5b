"""The key that vouches for another, as recorded (docs/spec.md, "Key requests")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.protocol.errors import SignatureInvalidError
from keypost_services.ca import errors

if TYPE_CHECKING:
    from keypost.protocol.key_requests import KeyRequest
    from keypost_services.ca.store import RecordedKey, User


def find_parent(user: User | None, request: KeyRequest) -> tuple[User, RecordedKey]:
    """Return the user and the key that is to vouch.

    Raises:
        ServiceError: ENDORSEMENT_REFUSED: who lacks either learns no more than one with a wrong signature.
    """
    parent = None if user is None else user.find(request.parent_fingerprint)
    if user is None or parent is None:
        raise errors.endorsement_refused()
    return user, parent


def verify_signature(parent: KeyRequest, request: KeyRequest) -> None:
    """Verify that a key signed a request, whatever it may vouch for: nobody but its holder learns what became of it.

    Raises:
        ServiceError: ENDORSEMENT_REFUSED.
    """
    endorsement_hash = parent.suite.endorsement_hash(request.signed.key_request, request.public_key_der)
    try:
        parent.suite.verify_endorsement(parent.public_key, endorsement_hash, request.signed.endorsement)
    except SignatureInvalidError as error:
        raise errors.endorsement_refused() from error
