"""What a command that works on the database says when that, or what it was given, cannot be used."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from keypost_services.ca.migrate import SchemaDiffersError
from keypost_services.ca.printing import CommandError
from keypost_services.ca.store import StoreAwayError
from keypost_services.ca.store_failures import sentence_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def failures_told(*others: type[Exception]) -> Iterator[None]:
    """Tell what goes wrong with the database, or with a value that was given, as a CommandError.

    Args:
        others: What else may go wrong, and says so in one line by itself.

    Raises:
        CommandError: It went wrong.
    """
    expected: tuple[type[Exception], ...] = (ValueError, SchemaDiffersError, *others)
    try:
        yield
    except expected as error:
        raise CommandError(str(error)) from error
    except SQLAlchemyError as error:
        raise CommandError(f"the database cannot be used: {sentence_of(error)}", StoreAwayError.reason) from error
