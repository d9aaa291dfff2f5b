from __future__ import annotations

import pytest

from keypost.cli.errors import FileError, NoProfileError, UsageError
from keypost.cli.exit_codes import ExitCode, exit_code_of
from keypost.cli.hints import HINTS, hint_for
from keypost.client import ClockWrongError, NotEnrolledError
from keypost.errors import InvalidArgumentError, KeypostError, RefusedError, UnreachableError
from keypost.keystore.errors import WrongPassphraseError
from keypost.protocol.errors import IdentityChangedError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (InvalidArgumentError("x"), 2),
        (UnreachableError("x"), 3),
        (RefusedError("USER_NOT_FOUND", "x"), 4),
        (IdentityChangedError("x"), 5),
        (WrongPassphraseError("x"), 6),
        (NoProfileError("x"), 6),
        (FileError("x"), 1),
        (KeypostError("x"), 1),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error: KeypostError, code: int) -> None:
    assert exit_code_of(error) == code


def test_the_codes_are_all_different() -> None:
    assert len(set(ExitCode)) == len(ExitCode.__members__)


@pytest.mark.parametrize("error", [NotEnrolledError("x"), ClockWrongError("x")])
def test_what_a_person_can_mend_has_a_hint(error: KeypostError) -> None:
    assert hint_for(error)


def test_hints_are_sentences() -> None:
    assert all(hint[0].isupper() for hint in HINTS.values())
