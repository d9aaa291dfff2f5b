"""Bad arguments are refused by their names before anything is stored, sent or asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from keypost.client.arguments import LARGEST_BODY
from keypost.errors import InvalidArgumentError
from support.people import CHEAP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support.simulation import Services

ROOT = bytes(32)
BAD_USERNAMES = ["", "B O B", "Bob", "b\u00f6b", "bob\n", "bob\0", "b" * 129, "\ud800", b"bob", None, 7, ["bob"]]
BAD_BODIES = [
    None,
    5,
    ["a"],
    "\ud800",
    "a" * (LARGEST_BODY + 1),
    bytes(LARGEST_BODY + 1),
    "\u00e9" * (LARGEST_BODY // 2 + 1),
]
BAD_MEDIA_TYPES = ["", "text/plain\n", "text/pl\u00e4in", "x" * 256, b"text/plain", 7]
BAD_PATHS = [None, 7, b"file", "a\0b", "missing", ".", ""]
BAD_FILE_IDS = [b"", bytes(15), bytes(17), "0" * 16, 16]
BAD_CODES = ["", b"code", 7, "AAAA", "0" * 25, "0" * 27, "\u0131" * 26, "+" * 26]
BAD_ROOTS = [b"", bytes(31), bytes(33), "0" * 32, 32, None]
BAD_SUITES = [None, "STRONG", 2]

CALLS: dict[str, tuple[str, list[Any], Callable[[Any, Any], Awaitable[object]]]] = {
    "send to": ("username", BAD_USERNAMES, lambda client, bad: client.send(bad, "hello")),
    "send what": ("body", BAD_BODIES, lambda client, bad: client.send("bob", bad)),
    "send as": ("media_type", BAD_MEDIA_TYPES, lambda client, bad: client.send("bob", "hello", media_type=bad)),
    "rotate": ("username", BAD_USERNAMES, lambda client, bad: client.rotate(bad)),
    "send file to": ("username", BAD_USERNAMES, lambda client, bad: client.send_file(bad, Path(__file__))),
    "send file": ("path", BAD_PATHS, lambda client, bad: client.send_file("bob", bad)),
    "send file as": (
        "media_type",
        BAD_MEDIA_TYPES,
        lambda client, bad: client.send_file("bob", Path(__file__), media_type=bad),
    ),
    "resume": ("file_id", BAD_FILE_IDS, lambda client, bad: client.resume_files(bad)),
    "cancel": ("file_id", [None, *BAD_FILE_IDS], lambda client, bad: client.cancel_file(bad)),
    "keys": ("username", BAD_USERNAMES, lambda client, bad: client.keys(bad)),
    "accept whom": ("username", BAD_USERNAMES, lambda client, bad: client.accept_identity(bad, ROOT)),
    "accept what": ("root", BAD_ROOTS, lambda client, bad: client.accept_identity("bob", bad)),
    "evidence": ("username", BAD_USERNAMES, lambda client, bad: client.evidence(bad)),
    "handled": ("message", [None, "hello", 7], lambda client, bad: client.set_handled(bad)),
    "set aside": ("limit", [None, 0, -1, "7", 1.5], lambda client, bad: client.list_set_aside(limit=bad)),
    "enroll whom": ("username", BAD_USERNAMES, lambda client, bad: client.enroll(bad)),
    "enroll by": ("code", BAD_CODES, lambda client, bad: client.enroll("alice", code=bad)),
    "enroll with": ("suite", BAD_SUITES, lambda client, bad: client.enroll("alice", suite=bad)),
}


def asked(services: Services) -> int:
    return sum(map(len, services.requests.values()))


def entries(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def refused(call: Awaitable[object]) -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        await call
    return caught.value.metadata["field"]


@pytest.mark.parametrize("name", CALLS)
async def test_a_bad_argument_is_named_and_nothing_happens(alice: Any, bob: Any, services: Services, name: str) -> None:
    field, values, call = CALLS[name]
    alice.steps.clear()
    calls = asked(services)
    for bad in values:
        assert await refused(call(alice.client, bad)) == field, bad
    assert (alice.steps, alice.events, asked(services)) == ([], [], calls)
    # No counter was taken, and nothing waits that goes first.
    assert (await alice.client.send("bob", "hello")).counter == 1
    assert [message.counter for message in await bob.inbox()] == [1]


async def test_what_is_no_file_is_not_waited_for(alice: Any, bob: Any, tmp_path: Path) -> None:
    pipe, strange = tmp_path / "pipe", tmp_path / "caf\udce9"
    os.mkfifo(pipe)
    strange.write_bytes(b"")
    for path in (pipe, strange):
        assert await refused(alice.client.send_file("bob", path)) == "path"
    assert await bob.inbox() == []


async def test_bytes_of_every_kind_and_paths_as_texts_are_good(alice: Any, bob: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"file")
    for body in (b"a", bytearray(b"b"), memoryview(b"c"), "", b""):
        await alice.client.send("bob", body)
    await alice.client.send_file("bob", str(tmp_path / "file"))
    assert [message.body for message in await bob.inbox()] == [b"a", b"b", b"c", b"", b"", b""]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("unlock", [None, "correct horse", 7]),
        ("minimum_suite", BAD_SUITES),
        ("profile", [None, 7, b"profile", "a\0b"]),
        ("bundle", [7, b"bundle", "missing", ".", "a\0b"]),
    ],
)
async def test_what_cannot_open_a_profile_makes_none(
    surface: Any, services: Services, tls: Any, tmp_path: Path, field: str, values: list[Any]
) -> None:
    for bad in values:
        options = {"unlock": CHEAP, "bundle": services.bundle(tls), "profile": tmp_path / "profile", field: bad}
        assert await refused(surface.open(options.pop("profile"), **options)) == field, bad
    assert entries(tmp_path) == []
