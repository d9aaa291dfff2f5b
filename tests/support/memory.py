"""How often secrets stand in the memory of another process: ``memory.py`` prints the table of docs/secrets.md."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keypost.keystore import Passphrase, open_store
from keypost.keystore.database import conversation_from
from keypost.protocol.rsa import private_key_from_der

CHILD = Path(__file__).with_name("closing_child.py")
STAGES = ("open", "closed", "collected")

Counts = Mapping[str, Mapping[str, int]]
"""By kind of secret and stage, how often it was found."""


def observe(folder: Path, variables: Mapping[str, str] | None = None) -> tuple[Counts, Mapping[str, int]]:
    """Run the child in a folder; return the copies of each kind of secret, and the objects alive, at each stage."""
    passphrase = folder / "passphrase"
    passphrase.write_text(secrets.token_urlsafe(24))
    snapshots: dict[str, bytes] = {}
    alive: dict[str, int] = {}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(variables or {})}
    with subprocess.Popen(
        [sys.executable, "-P", str(CHILD), str(folder), str(passphrase)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for stage in STAGES:
            told, objects = child.stdout.readline().split()
            assert told == stage
            alive[stage] = int(objects)
            snapshots[stage] = read_memory(child.pid)
            child.stdin.write("\n")
            child.stdin.flush()
    assert child.returncode == 0
    kinds = secrets_of(folder, passphrase.read_text())
    counts = {
        kind: {stage: sum(map(memory.count, values)) for stage, memory in snapshots.items()}
        for kind, values in kinds.items()
    }
    return counts, alive


def read_memory(pid: int) -> bytes:
    """Return what a process may write to, all of it."""
    process, regions = Path("/proc") / str(pid), []
    with (process / "mem").open("rb", buffering=0) as memory:
        for line in (process / "maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(number, 16) for number in span.split("-"))
            memory.seek(start)
            try:
                regions.append(memory.read(end - start))
            except OSError:  # a region of the kernel's
                continue
    return b"\n".join(regions)


def secrets_of(folder: Path, passphrase: str) -> dict[str, list[bytes]]:
    """Return what the profiles of the child keep sealed, by kind."""
    found: dict[str, list[bytes]] = {
        name: [] for name in ("data key", "derived key", "session key", "private exponent", "private key (DER)")
    }
    for name in ("alice", "bob"):
        unlock = Passphrase(passphrase)
        store: Any = open_store(folder / name, unlock)
        found["data key"].append(bytes(store._database.sealer._data_key))
        found["derived key"].append(bytes(unlock.derive(store._database.one("SELECT parameters FROM unlock")[0])))
        der = store.key_pairs.current().private_key_der
        exponent = private_key_from_der(der).private_numbers().d
        found["private exponent"].append(exponent.to_bytes(384, "little")[:64])
        found["private key (DER)"].append(exponent.to_bytes(384, "big")[-64:])
        for (text,) in store._database.all("SELECT conversation FROM conversations"):
            if name == "alice":
                found["session key"] += [one.session_key for one in store.sessions.newest(conversation_from(text))]
        store.close()
    assert all(found.values())
    return found


def table(counts: Counts, alive: Mapping[str, int]) -> str:
    """Return the counts as a table in Markdown."""
    lines = [f"| copies of | {' | '.join(STAGES)} |", "|---|---|---|---|"]
    lines += [f"| {kind} | {' | '.join(str(row[stage]) for stage in STAGES)} |" for kind, row in counts.items()]
    return "\n".join([*lines, f"| key and cipher objects | {' | '.join(str(alive[stage]) for stage in STAGES)} |"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        sys.stdout.write(f"{table(*observe(Path(made)))}\n")
    with tempfile.TemporaryDirectory() as made:
        overwriting = {"PYTHONMALLOC": "malloc", "MALLOC_PERTURB_": "165"}
        sys.stdout.write(f"\nWith {overwriting}:\n\n{table(*observe(Path(made), overwriting))}\n")
