"""The suites, as options name them."""

from __future__ import annotations

from enum import StrEnum


class SuiteName(StrEnum):
    """The suites by name."""

    RSA3072_AES256 = "RSA3072_AES256"
    RSA1024_AES128 = "RSA1024_AES128"


SUITE_HELP = "The algorithms of the key pair. RSA1024_AES128 is broken in practice, and most realms refuse it."
