"""What requests of several services have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpc import StatusCode

from keypost.errors import InvalidArgumentError
from keypost.protocol.encoding import LARGEST_NUMBER
from keypost.protocol.extension import FINGERPRINT_BYTES
from keypost.protocol.identifiers import USERNAME, check_username
from keypost_services.runtime.errors import ServiceError, invalid_field

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_USERNAMES = 100
USER_NOT_FOUND = "USER_NOT_FOUND"


def read_username(username: str, field: str = "username") -> str:
    """Return the username of a request.

    Raises:
        ServiceError: INVALID_FIELD: it is none.
    """
    try:
        return check_username(username)
    except InvalidArgumentError as error:
        raise invalid_field(field, str(error)) from error


def read_usernames(usernames: Sequence[str]) -> list[str]:
    """Return the usernames of a batch.

    Raises:
        ServiceError: INVALID_FIELD: there are none or too many, one stands there twice, or one is none.
    """
    if not 1 <= len(usernames) <= MOST_USERNAMES:
        raise invalid_field("usernames", f"1 to {MOST_USERNAMES} at once")
    if len(set(usernames)) != len(usernames):
        raise invalid_field("usernames", "no one twice")
    names = list(usernames)
    for index, username in enumerate(names):
        if not USERNAME.fullmatch(username):
            read_username(username, f"usernames[{index}]")
    return names


def read_history_from(fingerprint: bytes) -> bytes:
    """Return the fingerprint from which history is wanted; empty: from the root.

    Raises:
        ServiceError: INVALID_FIELD: it is none.
    """
    if len(fingerprint) not in (0, FINGERPRINT_BYTES):
        raise invalid_field("history_from_fingerprint", f"{FINGERPRINT_BYTES} bytes, or none")
    return fingerprint


def read_number(number: int, field: str) -> int:
    """Return a revision or a sequence of a request, 0 included.

    Raises:
        ServiceError: INVALID_FIELD: no database keeps so large a one.
    """
    if number > LARGEST_NUMBER:
        raise invalid_field(field, "it is below 2^63")
    return number


def user_not_found(username: str) -> ServiceError:
    """Return the answer that there is no such user."""
    return ServiceError(StatusCode.NOT_FOUND, USER_NOT_FOUND, f"there is no user {username}", username=username)
