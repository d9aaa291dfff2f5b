"""The methods of a client about whom it talks with: accepting, comparing and verifying identities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.client.arguments import check_root, read_compared
from keypost.client.base import ClientBase
from keypost.protocol.identifiers import check_username

if TYPE_CHECKING:
    from keypost.client.results import SafetyNumber
    from keypost.keystore.values import Evidence
    from keypost.protocol.key_info import KeyRecord


class IdentityCalls(ClientBase):
    """What a client does about identities."""

    async def accept_identity(self, username: str, root: bytes) -> KeyRecord:
        """Accept a changed identity of a user, after people compared it in another way.

        If the earlier identity was verified, this one is not: an event of reason ``VERIFIED_LOST`` says so.

        Args:
            username: The user.
            root: The fingerprint that IdentityChangedError names in ``metadata["root"]``, as 32 bytes.

        Returns:
            The record that is relied upon from now on.

        Raises:
            IdentityChangedError: the directory shows yet another root.
        """
        async with self._working():
            check_username(username)
            root = check_root(root)
            return await self._parts.identities.accept(username, root)

    async def safety_number(self, username: str) -> SafetyNumber:
        """Return what to compare with a user, over something other than Keypost, as the directory shows it now.

        Args:
            username: The user; the own one, for what another own device shows.

        Raises:
            NotEnrolledError: this profile has no key yet.
            ProtocolError: a record breaks a rule, or the own identity has changed.
            RefusedError: USER_NOT_FOUND and others.
            UnreachableError: no answer.
        """
        async with self._working():
            check_username(username)
            return await self._parts.identities.safety_number(username)

    async def set_verified(self, username: str, compared: str) -> None:
        """Note that people compared the safety number of a user: his identity is accepted, and verified.

        It stays verified through renewals, further devices and revocations, until another identity is accepted.

        Args:
            username: The user.
            compared: The 60 digits, or the text of the code, as the **other** side shows them: they are compared with
                what this side sees. For people who compared by themselves, ``safety_number(username).digits``.

        Raises:
            SafetyNumberDiffersError: they are not the same: nothing is noted.
            MalformedStatementError: it is no code of this version.
            KeypostError: as ``safety_number``.
        """
        async with self._working():
            check_username(username)
            text = read_compared(compared)
            await self._parts.identities.set_verified(username, text)

    async def set_unverified(self, username: str) -> None:
        """Take back that the identity of a user is verified; it stays accepted. Asks nobody."""
        async with self._working():
            check_username(username)
            await self._parts.records.set_unverified(username)

    async def is_verified(self, username: str) -> bool:
        """Return whether the accepted identity of a user is verified. Asks nobody."""
        async with self._working():
            check_username(username)
            return await self._parts.identities.is_verified(username)

    async def evidence(self, username: str) -> tuple[Evidence, ...]:
        """Return what this profile keeps as evidence about a user, oldest first: for the realm's operator.

        Asks nobody, and is available on a device that has stopped.

        Args:
            username: The user.
        """
        async with self._working(copy_too=True):
            check_username(username)
            return await self._parts.identities.evidence(username)
