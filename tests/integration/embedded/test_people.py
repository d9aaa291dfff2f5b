from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keypost_services.embedded.people import Home, Person, PersonFailed

if TYPE_CHECKING:
    from pathlib import Path


def person(folder: Path) -> Person:
    home = Home(folder / "alice", folder / "no-bundle.json", "secret", "RSA3072_AES256", folder / "alice.log")
    return Person("alice", home, lambda _event: None)


async def test_a_process_that_does_not_come_up_is_told_with_its_log(tmp_path: Path) -> None:
    alice = person(tmp_path)
    with pytest.raises(PersonFailed, match=r"process ended; see .*alice\.log"):
        await alice.come_online()
    assert "no-bundle.json" in (tmp_path / "alice.log").read_text()
    await alice.go_offline()


async def test_nobody_can_ask_anything_of_a_person_who_is_offline(tmp_path: Path) -> None:
    alice = person(tmp_path)
    with pytest.raises(PersonFailed, match="offline"):
        await alice.do("send", username="bob", text="hi")
    assert await alice.go_offline() == 0
    assert alice.pid == 0
