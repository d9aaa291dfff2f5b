"""What the source document's suite does not defend against: shown to succeed, and why it is off by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keypost.protocol.suites import WEAK
from support.hostile import Peer, resealed
from support.talk import text

if TYPE_CHECKING:
    from support.simulation import Services


async def test_a_recipient_can_pass_a_session_key_on(open_client: Any, services: Services) -> None:
    """Alice wrote to Mallory; Carol believes that Alice wrote to her.

    A signature over the session key alone says nothing of whom it is for. The same attack on the default suite:
    tests/attacks/test_sessions.py.
    """
    carol = await open_client("carol", minimum_suite=WEAK)
    await carol.client.enroll("carol", suite=WEAK)
    alice = Peer.enroll(services, "alice", WEAK)
    Peer.enroll(services, "mallory", WEAK)
    [key] = services.realm.key_record("carol").keys
    offer = resealed(alice.offer("mallory"), carol.client._parts.identity.current, key)
    await alice.put(carol.client.address, offer, text("for Mallory alone"))
    [message] = await carol.inbox()
    assert (message.text, message.sender) == ("for Mallory alone", alice.pair.address)
