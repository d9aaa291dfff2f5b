"""The database is shared with the commands of ``keypost-ca``, which come and go while the CA serves."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

from sqlalchemy import text

from keypost_services.ca.engine import open_engine

if TYPE_CHECKING:
    from pathlib import Path

WRITE = "import sqlite3; c = sqlite3.connect({!r}); c.execute('INSERT INTO t VALUES (2)'); c.commit(); c.close()"


async def test_another_process_that_ends_does_not_take_the_write_ahead_log_along(tmp_path: Path) -> None:
    file = tmp_path / "ca.db"
    engine = open_engine(f"sqlite:///{file}")
    async with engine.connect() as one:
        await one.execute(text("CREATE TABLE t (n)"))
        await one.execute(text("INSERT INTO t VALUES (1)"))
        await one.commit()
        async with engine.connect() as another:
            await another.execute(text("SELECT n FROM t"))
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", WRITE.format(str(file))], check=True)
        # Without the lock of this process that one would have believed itself to be the last, and removed it; what is
        # written here from then on would be lost.
        assert (tmp_path / "ca.db-wal").exists()
        assert [row[0] for row in await one.execute(text("SELECT n FROM t"))] == [1, 2]
        await one.execute(text("INSERT INTO t VALUES (3)"))
        await one.commit()
    await engine.dispose()
    again = open_engine(f"sqlite:///{file}")
    async with again.connect() as connection:
        assert [row[0] for row in await connection.execute(text("SELECT n FROM t"))] == [1, 2, 3]
    await again.dispose()


async def test_a_new_database_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        engine = open_engine(f"sqlite:///{tmp_path / 'ca.db'}")
        async with engine.connect():
            assert stat.S_IMODE((tmp_path / "ca.db").stat().st_mode) == 0o600
        await engine.dispose()
    finally:
        os.umask(before)
