"""Runs vectors about texts through ``keypost.protocol``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.errors import InvalidArgumentError
from keypost.protocol.errors import MalformedStatementError
from keypost.protocol.texts import TextKind, from_text, to_text

if TYPE_CHECKING:
    from vectors.core.statements import Case, Shared


def texts(case: Case, _: Shared) -> None:
    kind = TextKind(case["kind"])
    try:
        message = from_text(kind, case["text"] if "text" in case else case["read"])
    except InvalidArgumentError as error:
        raise MalformedStatementError(str(error)) from error
    assert message.hex() == case["message"]
    if "text" in case:
        assert to_text(kind, message) == case["text"]
