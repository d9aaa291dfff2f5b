"""The calls of a client by which its user signs in at an issuer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.client.arguments import check_suite
from keypost.client.base import ClientBase
from keypost.client.results import Oidc
from keypost.protocol.identifiers import check_username
from keypost.protocol.suites import STRONG

if TYPE_CHECKING:
    from keypost.protocol.suites import Suite


class SignInCalls(ClientBase):
    """What an application needs to have an ID token issued."""

    @property
    def oidc(self) -> Oidc | None:
        """Where users of this realm sign in, as the bundle says; None if it names no issuer."""
        return Oidc.of(self._parts.bundles.current)

    async def sign_in_nonce(self, username: str, suite: Suite = STRONG) -> str:
        """Return the nonce for the ID token that ``enroll`` takes: it is of the key that is to be recorded.

        The key pair is generated and kept; until it is enrolled, the same user and suite have the same nonce, after a
        restart too. Nobody is asked but for the realm's trust.

        Args:
            username: The user.
            suite: The suite of the key.

        Returns:
            The fingerprint of the key, 64 hexadecimal digits.

        Raises:
            InvalidArgumentError: this profile is a device already, or an argument cannot be right.
            SuiteRefusedError: the suite is below the minimum or not allowed in the realm.
        """
        async with self._working(copy_too=True):
            check_username(username)
            check_suite(suite)
            return await self._parts.enrolling.nonce(username, suite)
