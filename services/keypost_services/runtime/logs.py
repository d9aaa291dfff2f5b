"""Structured logs that hold no key, no token and no body."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

import structlog
from google.protobuf.message import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import EventDict, FilteringBoundLogger, Processor

REDACTED = "[redacted]"
_SECRET_NAME = re.compile(
    r"token|authorization|password|passphrase|secret|credential|private_?key|session_?key|sealed|one_time_code"
    r"|cipher_?text|plain_?text|envelope|body|content|cookie",
    re.IGNORECASE,
)
_SECRET_TEXT = (
    (re.compile(r"eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"), "[token]"),
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        "[private key]",
    ),
    (re.compile(r"(?<=://)[^/@\s'\"]+@"), "[credentials]@"),
    (re.compile(r"(?i)bearer\s+[^\s'\"]+"), "bearer [token]"),
)
_LONGEST_TEXT = 16_384
_DEEPEST = 4

_facts: ContextVar[Mapping[str, str]] = ContextVar("keypost_facts_of_lines")


def set_facts(facts: Mapping[str, str]) -> None:
    """Put these facts into every line of this task and of those that it begins; what is added to them later too."""
    _facts.set(facts)


def fact(name: str) -> str:
    """Return a fact of this task's lines; empty if there is none."""
    return _facts.get({}).get(name, "")


def _with_facts(_logger: object, _method: str, event: EventDict) -> EventDict:
    return {**_facts.get({}), **event}


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Take out of a log line what must not stand in it (a processor: belt and braces, nobody should put it in)."""
    return {
        name: REDACTED if _SECRET_NAME.search(name) and not _is_plain(value) else _clean(value, _DEEPEST)
        for name, value in event.items()
    }


def _clean(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"[{len(value)} bytes]"
    if isinstance(value, Message):
        return f"[{value.DESCRIPTOR.full_name}]"
    if depth and isinstance(value, Mapping):
        return redact(None, "", {str(key): _clean(item, depth - 1) for key, item in value.items()})
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [_clean(item, depth - 1) for item in value]
    return value if _is_plain(value) else _clean_text(str(value))


def _is_plain(value: Any) -> bool:
    """Whether a value is a count, a flag or nothing: that is never a secret, whatever its name."""
    return isinstance(value, (bool, int, float, type(None)))


def _clean_text(text: str) -> str:
    for pattern, instead in _SECRET_TEXT:
        text = pattern.sub(instead, text)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}[cut]"


def make_logger(service: str, level: str, log_format: str, stream: TextIO | None = None) -> FilteringBoundLogger:
    """Return the log of a service: one line an event.

    Args:
        service: Named in each line.
        level: The least that is logged: debug, info, warning or error.
        log_format: ``json`` or ``console``.
        stream: Where the lines go; by default standard output.
    """
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(stream or sys.stdout),
        processors=[*_shared(), redact, _renderer(log_format)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    ).bind(service=service)
    return logger


def route_standard_logging(log_format: str, stream: TextIO | None = None) -> None:
    """Send what libraries log to the same place in the same form: warnings and worse."""
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.addFilter(_tells_no_header)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *_shared()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact,
                _renderer(log_format),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def _tells_no_header(record: logging.LogRecord) -> bool:
    """Drop what gRPC says of a header that is not text: it quotes it, and it may be a token."""
    return not str(record.msg).startswith("Invalid encoding")


def _shared() -> Sequence[Processor]:
    return (
        structlog.contextvars.merge_contextvars,
        _with_facts,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
    )


def _renderer(log_format: str) -> Processor:
    if log_format == "console":
        return structlog.dev.ConsoleRenderer(colors=False)
    return structlog.processors.JSONRenderer()
