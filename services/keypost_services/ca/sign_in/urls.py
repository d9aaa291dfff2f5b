"""Where an issuer may be."""

from __future__ import annotations

from keypost_services.runtime.urls import check_https

DISCOVERY = "/.well-known/openid-configuration"


def check_issuer(url: str) -> str:
    """Return the URL that an issuer is named by (OpenID Connect Core 1.0, section 2).

    Raises:
        ValueError: It is none.
    """
    if "?" in check_https(url):
        raise ValueError("must have no query")
    return url


def discovery_url(issuer: str) -> str:
    """Return where an issuer describes itself (OpenID Connect Discovery 1.0, section 4)."""
    return issuer.removesuffix("/") + DISCOVERY
