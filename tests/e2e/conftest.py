from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.command_line import User
from support.stack import running_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keypost_services.embedded.stack import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture(scope="module")
def people(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[User, User]:
    """Alice and Bob with names of their own, enrolled."""
    folder, suffix = tmp_path_factory.mktemp("profiles"), secrets.token_hex(4)
    alice, bob = (User(stack, f"{name}-{suffix}", folder / name) for name in ("alice", "bob"))
    for user in (alice, bob):
        assert f"You are {user.name}/" in user.run("enroll", user.name)
    return alice, bob


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that every account may enter: PostgreSQL does not run as root, and must get at its files."""
    with tempfile.TemporaryDirectory(prefix="open-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
