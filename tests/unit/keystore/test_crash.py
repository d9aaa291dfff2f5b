"""A process that holds a profile is killed; what it committed is there, and nothing else is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keypost.keystore import KeyStoreLockedError, KeyStoreTamperedError, open_store
from keypost.keystore.copies import FILE_NAME
from support.key_store import BOTH, MESSAGE, UNLOCK, Reopening, message, unhandled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMITTED = 5

VICTIM = f"""
import sys
from pathlib import Path
from keypost.keystore import open_store
from support.key_store import BOTH, OUTGOING, UNLOCK, message, unhandled

store = open_store(Path(sys.argv[1]), UNLOCK)

def write(number):
    store.counters.next_send(BOTH)
    store.inbox.add(message(number))

for number in range({COMMITTED}):
    with store.transaction():
        write(number)
with store.transaction():
    write({COMMITTED})
    store.outbox.add(OUTGOING)
    print("in the middle", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def victim(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of a transaction."""
    Reopening.new(tmp_path).store.close()
    process = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=pytestconfig.rootpath / "tests",
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the middle\n"
        yield process
        process.kill()


def test_the_last_committed_transaction_survives_and_the_lock_does_not(
    victim: subprocess.Popen[str], tmp_path: Path
) -> None:
    with pytest.raises(KeyStoreLockedError):
        open_store(tmp_path, UNLOCK)
    victim.kill()
    victim.wait()
    store = open_store(tmp_path, UNLOCK)
    assert len(unhandled(store)) == COMMITTED
    assert store.inbox.find(MESSAGE.sender, message(COMMITTED).message_id) is None
    assert store.outbox.page() == ()
    assert store.counters.next_send(BOTH) == COMMITTED + 1
    store.close()


WRITER = f"""
import os, sys
from pathlib import Path
from keypost.keystore import open_store
from support.key_store import UNLOCK

store = open_store(Path(sys.argv[1]), UNLOCK)
for number in range({COMMITTED}):
    store.profile.set_note(str(number), os.urandom(2000))
os._exit(9)
"""


@pytest.fixture
def torn(tmp_path: Path, pytestconfig: pytest.Config) -> Path:
    """A profile whose process died: what it committed is in the log."""
    folder = tmp_path / "torn"
    Reopening.new(folder).store.close()
    done = subprocess.run([sys.executable, "-c", WRITER, folder], cwd=pytestconfig.rootpath / "tests", check=False)
    assert done.returncode == 9
    return folder


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_law_wherever_its_log_is_torn_what_was_committed_before_is_there(torn: Path, data: st.DataObject) -> None:
    copy = torn.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(torn, copy)
    log = copy / f"{FILE_NAME}-wal"
    size = log.stat().st_size
    log.write_bytes(log.read_bytes()[: (cut := data.draw(st.integers(0, size)))])
    try:
        store = open_store(copy, UNLOCK)
    except KeyStoreTamperedError:
        return
    with closing(store):
        there = [store.profile.note(str(number)) is not None for number in range(COMMITTED)]
        assert there == sorted(there, reverse=True), "a later note is there, and an earlier one is not"
        assert store.profile.read().realm
        assert all(there) or cut < size
        # A transaction here is a few pages; so what lies well before the tear is there.
        assert sum(there) >= cut * COMMITTED // size - 1


def test_two_processes_at_once_corrupt_nothing(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    Reopening.new(tmp_path).store.close()
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    where = pytestconfig.rootpath / "tests"
    processes = [subprocess.Popen(command, cwd=where, stderr=subprocess.PIPE) for _ in range(4)]
    ends = [(process.communicate()[1], process.returncode) for process in processes]
    assert any(code == 9 for _, code in ends)
    assert all(
        code == 9 or b"KeyStoreLockedError: another process is using this profile" in said for said, code in ends
    )
    with closing(open_store(tmp_path, UNLOCK)) as store:
        assert all(store.profile.note(str(number)) for number in range(COMMITTED))
