"""What requests of several services have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpc import StatusCode

from keypost.errors import InvalidArgumentError
from keypost.protocol.identifiers import check_username
from keypost_services.runtime.errors import ServiceError, invalid_field

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_USERNAMES = 100


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
    return [read_username(username, "usernames") for username in usernames]


def user_not_found(username: str) -> ServiceError:
    """Return the answer that there is no such user."""
    return ServiceError(StatusCode.NOT_FOUND, "USER_NOT_FOUND", f"there is no user {username}", username=username)
