from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from keypost.cli.app import complete_profile
from keypost.cli.errors import UsageError
from keypost.cli.profiles import is_profile, profile_names, profile_path
from keypost.keystore.copies import FILE_NAME


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


def test_profiles_are_listed_and_completed_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_data_path", lambda _app: tmp_path)
    assert profile_names() == [], "before the first there is no folder"
    for name, content in (("work", b"x"), ("wiki", b"x"), ("home", b"x"), ("cut-short", b"")):
        (tmp_path / "profiles" / name).mkdir(parents=True)
        (tmp_path / "profiles" / name / FILE_NAME).write_bytes(content)
    (tmp_path / "profiles" / "a-folder").mkdir()
    assert profile_names() == ["home", "wiki", "work"]
    assert complete_profile("w") == ["wiki", "work"]
    assert not is_profile(profile_path("cut-short"))
