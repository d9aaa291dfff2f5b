from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from keypost.cli.output import HumanOutput, JsonOutput, message_as_json
from keypost.client import Received, ReceivedFile
from keypost.protocol.identifiers import Address
from keypost.protocol.steps import negotiation_step

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


async def no_chunks() -> AsyncGenerator[bytes, None]:
    yield b""


def message(body: bytes = b"hi", media_type: str = "text/plain; charset=utf-8", **changes: Any) -> Received:
    fields: dict[str, Any] = {
        "sender": Address("alice", "a" * 16),
        "message_id": UUID(int=1),
        "counter": 1,
        "send_time": 1767225600250,
        "accept_time": 1767225600251,
        "key_id": bytes(32),
        "redelivered": False,
        "missed": 0,
        "file": None,
        "sequence": 1,
    }
    return Received(**{**fields, "body": body, "media_type": media_type, **changes})


def a_file(name: str = "a\x1b.txt") -> ReceivedFile:
    return ReceivedFile(bytes(16), name, 2048, b"\xab" * 32, 1, no_chunks)


def test_text_is_text_and_the_rest_is_base64() -> None:
    assert message_as_json(message("grüße".encode()))["text"] == "grüße"
    for odd in (message(b"\xff"), message(b"hi", "image/png")):
        fields = message_as_json(odd)
        assert "text" not in fields
        assert base64.b64decode(fields["body_base64"]) == odd.body


def test_a_file_is_described() -> None:
    assert message_as_json(message(b"", file=a_file()))["file"]["size"] == 2048


@pytest.mark.parametrize(
    ("received", "shown"),
    [
        (message(), f"alice/{'a' * 16}: hi"),
        (message(b"a\x1b[2Jb\nmallory: c"), "a�[2Jb\n    mallory: c"),
        (message(b"\xff", "image/png"), "(image/png, 1 B"),
        (message(b"", file=a_file()), "(file a�.txt, 2.0 KiB)"),
    ],
)
def test_people_see_messages_made_harmless(received: Received, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    HumanOutput().message(received)
    assert shown in capsys.readouterr().out


def test_people_are_warned_apart_from_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    HumanOutput().message(message(missed=2, redelivered=True))
    said = capsys.readouterr()
    assert "2 earlier message(s)" in said.err
    assert "before" in said.err
    assert "earlier" not in said.out


def test_a_table_is_plain_lines_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"device": "a/b", "state": "good", "this_device": True},
        {"device": "a/c", "state": "x", "this_device": False},
    ]
    HumanOutput().table("devices", "Devices", ("device", "state", "this_device"), rows)
    assert capsys.readouterr().out == "a/b\tgood\tyes\na/c\tx\t-\n"


def test_a_pipe_stays_plain_even_where_colours_are_forced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    output = HumanOutput()
    output.table("keys", "Keys", ("device",), [{"device": "a/b"}])
    output.progress("a", 1, 2)
    output.close()
    assert capsys.readouterr() == ("a/b\n", "")


def test_a_reason_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    HumanOutput().error("USER_NOT_FOUND", "the directory refused: nobody (USER_NOT_FOUND)", None, {})
    HumanOutput().error("USER_NOT_FOUND", "nobody", None, {})
    assert capsys.readouterr().err.count("USER_NOT_FOUND") == 2


def test_steps_notices_and_errors_stay_off_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    output = HumanOutput()
    output.step(negotiation_step(5, "alice/abcdefgh", 1767225600250, sealed_key_bytes=384, key_id="ab" * 32))
    output.notice("warning", "WEAK_SUITE", "broken in practice")
    output.progress("a", 1, 2)
    output.error("USER_NOT_FOUND", "nobody\x1b", "Check the spelling.", {})
    output.close()
    said = capsys.readouterr()
    assert said.out == ""
    for words in ("negotiation  5", "alice/abcd", "abababab…", "WEAK_SUITE", "nobody�", "Check the spelling."):
        assert words in said.err


def test_machines_get_one_object_a_line() -> None:
    stream = io.StringIO()
    output = JsonOutput(stream)
    output.result("sent", "Sent.", counter=3)
    output.message(message())
    output.table("keys", "Keys", ("a",), [{"a": 1}])
    output.step(negotiation_step(5, "alice/abcdefgh", 1, sealed_key_bytes=384))
    output.notice("waiting", "CLOCK_AHEAD", "wait")
    output.progress("a", 1, 2)
    output.error("USER_NOT_FOUND", "nobody", None, {"username": "x"})
    output.close()
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == [
        "sent",
        "message",
        "keys",
        "step",
        "notice",
        "file_progress",
        "error",
    ]
    assert events[3]["step"] == 5
