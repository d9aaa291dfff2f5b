from __future__ import annotations

import signal
import subprocess
import sys

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


SIGNALLED = """
import os, signal, sys
from keypost.programs import end_on_sigterm
me, first, before = os.getpid(), int(sys.argv[1]), signal.getsignal(signal.SIGTERM)
os.getpid = lambda: first or me
end_on_sigterm()
print(signal.getsignal(signal.SIGTERM) == before)
sys.stdout.flush()
os.kill(me, signal.SIGTERM)
"""


@pytest.mark.parametrize(("first", "code"), [(1, 128 + signal.SIGTERM), (0, -signal.SIGTERM)])
def test_process_1_handles_sigterm_from_the_start_and_others_leave_it_to_the_kernel(first: int, code: int) -> None:
    command = [sys.executable, "-c", SIGNALLED, str(first)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == f"{first == 0}\n", done.stderr
    assert done.returncode == code


KEEPING = """
import gc
from keypost.programs import imports_to_keep
before = gc.get_freeze_count()
try:
    with imports_to_keep():
        print(gc.isenabled())
        import json.decoder
        import {module}
except ModuleNotFoundError:
    pass
print(gc.isenabled(), gc.get_freeze_count() > before)
"""


@pytest.mark.parametrize("module", ["json", "keypost_of_nobody"])
def test_imports_to_keep_are_not_collected_and_what_comes_later_is(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", KEEPING.format(module=module)], capture_output=True, check=True)
    assert done.stdout.decode().split() == ["False", "True", "True"]
