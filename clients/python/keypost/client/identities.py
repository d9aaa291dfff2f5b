"""Identities of other users: accepted, compared, verified (docs/spec.md, "Continuity" and "Safety numbers")."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keypost.client.results import SafetyNumber
from keypost.errors import InvalidArgumentError
from keypost.protocol import safety_numbers
from keypost.protocol.errors import IdentityChangedError

if TYPE_CHECKING:
    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.client.records import Records, Shown
    from keypost.keystore.values import Evidence
    from keypost.protocol.continuity import Pins
    from keypost.protocol.key_info import KeyRecord

VERIFIED_LOST = "VERIFIED_LOST"


class Identities:
    """Knows which identities people have accepted, and which ones they have verified.

    Args:
        context: What all parts share.
        identity: The own device.
        records: The users' records.
    """

    def __init__(self, context: Context, identity: Identity, records: Records) -> None:
        self._context = context
        self._identity = identity
        self._records = records

    async def accept(self, username: str, root: bytes) -> KeyRecord:
        """Accept that a user's keys now descend from another root, because people compared it.

        Raises:
            IdentityChangedError: the directory shows yet another root.
        """
        shown = await self._records.accept(username, lambda pins: _check_accepted(pins, root))
        if shown.is_changed and shown.previous is not None and shown.previous.verified:
            sentence = f"{username} was verified, and has another identity now: compare safety numbers again"
            self._context.tell("warning", VERIFIED_LOST, sentence, username=username)
        return shown.record

    async def safety_number(self, username: str) -> SafetyNumber:
        """Return what to compare with a user; see Client.safety_number."""
        own, shown = await self._own(), await self._records.shown(username)
        return await asyncio.to_thread(self._number, own, shown)

    def _number(self, own: safety_numbers.Identity, shown: Shown) -> SafetyNumber:
        realm, peer = self._context.realm, _identity_of(shown.pins)
        is_own = peer.username == own.username
        return SafetyNumber(
            username=peer.username,
            digits=safety_numbers.digits_of(realm, own) if is_own else safety_numbers.safety_number(realm, own, peer),
            code=safety_numbers.code_of(realm, own, peer),
            verified=shown.pins.verified,
            changed=shown.is_changed,
        )

    async def set_verified(self, username: str, compared: str) -> None:
        """Note that people compared what is shown; see Client.set_verified."""
        own = await self._own()
        if username == own.username:
            raise InvalidArgumentError("a user does not verify himself: name another user", field="username")

        def check(pins: Pins) -> None:
            safety_numbers.compare(self._context.realm, (own, _identity_of(pins)), compared)

        await self._records.accept(username, check, verified=True)

    async def is_verified(self, username: str) -> bool:
        """Return whether the accepted identity of a user is verified; asks nobody."""
        pins = await self._records.pins(username)
        return pins is not None and pins.verified

    async def evidence(self, username: str) -> tuple[Evidence, ...]:
        """Return what was kept about a user, oldest first; see Client.evidence."""
        return await self._context.store.run(lambda store: store.records.evidence(username))

    async def _own(self) -> safety_numbers.Identity:
        """Return the own identity, as the directory shows it and this device knows it."""
        username = self._identity.address.username
        record = await self._records.get(username, refresh=True)
        return safety_numbers.Identity(username, record.epoch, record.tree(self._context.minimum_suite).root)


def _identity_of(pins: Pins) -> safety_numbers.Identity:
    return safety_numbers.Identity(pins.username, pins.epoch, pins.root)


def _check_accepted(pins: Pins, root: bytes) -> None:
    if pins.root != root:
        raise IdentityChangedError(
            f"the root of {pins.username} is {pins.root.hex()[:8]}, not the accepted one",
            username=pins.username,
            root=pins.root.hex(),
        )
