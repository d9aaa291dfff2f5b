from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost_services.runtime.logs import REDACTED, make_logger, redact, route_standard_logging

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "eyJhbGciOiJQUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----"


def clean(**event: Any) -> dict[str, Any]:
    return dict(redact(None, "info", event))


@pytest.mark.parametrize(
    "name", ["token", "Authorization", "private_key", "session_key", "body", "one_time_code", "passphrase", "envelope"]
)
def test_what_is_named_like_a_secret_is_taken_out_unless_it_is_a_count(name: str) -> None:
    assert clean(**{name: "abc"}) == {name: REDACTED}
    assert clean(**{name: [b"abc"]}) == {name: REDACTED}
    assert clean(**{name: 3}) == {name: 3}


@pytest.mark.parametrize("secret", [TOKEN, f"Bearer {TOKEN}", "bearer abcdef", PEM, "redis://user:hunter2@host/0"])
def test_what_looks_like_a_secret_is_taken_out_wherever_it_stands(secret: str) -> None:
    text = json.dumps(clean(why=f"failed with {secret!s} there", deep={"list": [secret, {"x": secret}]}))
    for part in ("c2lnbmF0dXJl", "abcdef", "MIIEvQ", "hunter2"):
        assert part not in text
    assert "failed with" in text


def test_bytes_and_messages_are_named_not_shown() -> None:
    assert clean(value=b"12345", message=pb.SendRequest()) == {
        "value": "[5 bytes]",
        "message": "[keypost.delivery.v1.SendRequest]",
    }


def test_depth_and_length_are_bounded() -> None:
    nested: Any = "x"
    for _ in range(10):
        nested = [nested]
    assert "x" in json.dumps(clean(value=nested))
    assert len(clean(value="y" * 100_000)["value"]) < 20_000


def test_a_line_is_json_with_time_level_and_service() -> None:
    output = io.StringIO()
    log = make_logger("delivery", "info", "json", output)
    log.debug("unheard")
    log.error("failed", exc_info=ValueError(f"cannot use {TOKEN}"))
    (line,) = [json.loads(text) for text in output.getvalue().splitlines()]
    assert (line["event"], line["level"], line["service"]) == ("failed", "error", "delivery")
    assert line["time"].endswith("Z")
    assert "ValueError: cannot use [token]" in line["exception"]


def test_people_may_read_lines_too() -> None:
    output = io.StringIO()
    make_logger("delivery", "info", "console", output).info("serving", port=1)
    assert "serving" in output.getvalue()
    assert "port=1" in output.getvalue()


@pytest.fixture
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("root_logger")
def test_libraries_log_in_the_same_form_and_as_cleanly() -> None:
    output = io.StringIO()
    route_standard_logging("json", output)
    logging.getLogger("library").warning("got %s", TOKEN)
    logging.getLogger("library").info("unheard")
    logging.getLogger("grpc._cython.cygrpc").error("Invalid encoding on %s", b"Bearer abc\xff")
    (line,) = [json.loads(text) for text in output.getvalue().splitlines()]
    assert line["event"] == "got [token]"
    assert line["logger"] == "library"
