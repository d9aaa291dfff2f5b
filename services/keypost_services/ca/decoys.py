"""What renewal says of users that do not exist, so that nobody learns that they do not (docs/spec.md, "Begin")."""

from __future__ import annotations

import hmac

from keypost.protocol.encoding import pae

_LABEL = b"keypost/ca/decoy-revision"
_FIRST_RENEWAL = 2
_DRAWN_BITS = 64


class Decoys:
    """Draws revisions as if everybody had enrolled some time after the CA began, and renewed in time ever since.

    So they differ from name to name, are the same whoever asks, and grow, as real ones do.
    """

    def __init__(self, secret: bytes, since: int, renewal_period: int) -> None:
        """Take what all CA processes share.

        Args:
            secret: 32 bytes.
            since: When the CA began, Unix milliseconds.
            renewal_period: After how long devices renew, milliseconds.
        """
        self._secret = secret
        self._since = since
        self._renewal_period = renewal_period

    def next_revision(self, username: str, now: int) -> int:
        """Return the next revision of a user of this name, if they existed; at a later time never a lower one."""
        drawn = hmac.digest(self._secret, pae(_LABEL, username.encode()), "sha256")[: _DRAWN_BITS // 8]
        age = (max(now - self._since, 0) * int.from_bytes(drawn, "big")) >> _DRAWN_BITS
        return _FIRST_RENEWAL + age // self._renewal_period
