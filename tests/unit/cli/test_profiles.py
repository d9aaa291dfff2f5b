from __future__ import annotations

from pathlib import Path

import pytest

from keypost.cli.exit_codes import UsageError
from keypost.cli.profiles import profile_path


def test_a_name_lies_in_the_users_data_folder() -> None:
    path = profile_path("work")
    assert path.is_absolute()
    assert path.parts[-2:] == ("profiles", "work")


@pytest.mark.parametrize("name", ["./work", "a/b", "../x"])
def test_what_looks_like_a_path_is_one(name: str) -> None:
    assert profile_path(name) == Path(name)


def test_home_is_expanded() -> None:
    assert profile_path("~/work") == Path.home() / "work"


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(UsageError):
        profile_path(" ")
