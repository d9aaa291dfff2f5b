"""A process that holds a profile is killed; what it committed is there, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from keypost.keystore import KeyStoreLockedError, open_store
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
