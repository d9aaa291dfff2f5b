from __future__ import annotations

import pytest

from keypost.programs import needs_extra


def test_a_missing_library_ends_with_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, needs_extra("keypost-ca", "services"):
        import no_such_library_at_all  # type: ignore[import-not-found]  # noqa: F401, PLC0415
    assert end.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "keypost-ca needs the library no_such_library_at_all; install it with:  pip install 'keypost[services]'\n"
    )


def test_a_part_of_our_own_that_is_missing_is_no_matter_of_an_extra() -> None:
    with pytest.raises(ModuleNotFoundError), needs_extra("keypost", "cli"):
        import keypost.no_such_module  # type: ignore[import-not-found]  # noqa: F401, PLC0415
