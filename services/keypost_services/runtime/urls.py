"""URLs that a service asks: over TLS alone."""

from __future__ import annotations

from urllib.parse import urlsplit

MOST_URL_CHARACTERS = 512


def check_https(url: str) -> str:
    """Return a URL that is fetched over TLS, and has nothing in it that belongs elsewhere.

    Raises:
        ValueError: It is none.
    """
    if len(url) > MOST_URL_CHARACTERS or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"must be a URL of at most {MOST_URL_CHARACTERS} characters")
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("must begin with https://")
    if parts.username is not None or parts.password is not None or "#" in url:
        raise ValueError("must have neither a name, nor a password, nor a fragment")
    return url
