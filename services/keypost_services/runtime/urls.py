"""URLs that a service asks."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from urllib.parse import SplitResult

MOST_URL_CHARACTERS = 512


def check_https(url: str) -> str:
    """Return a URL that is fetched over TLS, and has nothing in it that belongs elsewhere.

    Raises:
        ValueError: It is none.
    """
    if not _is_plain(url):
        raise ValueError(f"must be a URL of at most {MOST_URL_CHARACTERS} characters")
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("must begin with https://")
    if parts.username is not None or parts.password is not None or "#" in url:
        raise ValueError("must have neither a name, nor a password, nor a fragment")
    return url


def check_collector(url: str) -> str:
    """Return the URL of a collector of traces: a host and a port, over TLS or not.

    Raises:
        ValueError: It is none.
    """
    parts = urlsplit(url)
    if not _is_plain(url) or parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
        raise ValueError("must be http://host:port or https://host:port, such as http://collector:4317")
    if parts.username is not None or parts.password is not None or parts.path or parts.query or "#" in url:
        raise ValueError("must have a host and a port alone")
    return url


def _is_plain(url: str) -> bool:
    return len(url) <= MOST_URL_CHARACTERS and url.isascii() and url.isprintable() and " " not in url


def _has_port(parts: SplitResult) -> bool:
    try:
        return bool(parts.port)
    except ValueError:
        return False
