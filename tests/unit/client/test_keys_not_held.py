"""What names a key of this device that it does not hold: it may be another copy's, and then it is left to that one.

That there is another copy is tried in ``test_backup.py``; here there is none, and whoever makes such a key up gets
nowhere by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.errors import RefusedError
from support.hostile import change_extension, change_header, tampering
from support.people import FOR_EVER
from support.simulation import failing

if TYPE_CHECKING:
    from support.hostile import Change
    from support.simulation import Services

MOST = 2**63 - 1
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def another_key(envelope: pb.Envelope) -> None:
    """Have the statement name a key of the device that nobody ever had."""
    extension = pb.Extension.FromString(envelope.key_extension.extension)
    extension.recipient_devices[0].fingerprint = bytes(32)
    envelope.key_extension.extension = extension.SerializeToString(deterministic=True)


def at_revision(revision: int) -> tuple[Change, Change]:
    return change_header(recipient_revision=revision), change_extension(recipient_revision=revision)


def look_ups(services: Services, username: str) -> int:
    return sum(request.username == username for request in services.requests["GetKeyInfo"])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keypost.client.records.MOMENT", 0.01)


@pytest.mark.parametrize(("revision", "asked"), [(1, 0), (2, 2), (MOST, 2)])
async def test_keys_that_nobody_holds_are_set_aside_by_one_look_at_the_own_record(
    alice: Any, bob: Any, services: Services, revision: int, asked: int
) -> None:
    await bob.client.keys("bob")
    for number in range(5):
        await alice.client.send("bob", f"{number}")
    services.in_batches = True
    services.deliver = tampering(another_key, *at_revision(revision))
    before = look_ups(services, "bob")
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["NOT_FOR_THIS_DEVICE"] * 5
    assert services.mailboxes[bob.client.address] == []
    assert look_ups(services, "bob") - before == asked
    services.deliver = lambda delivery: delivery
    await alice.client.send("bob", "untouched")
    assert [message.text for message in await bob.inbox()] == ["untouched"]


async def test_while_the_own_record_cannot_be_had_they_stay_in_the_mailbox(
    alice: Any, bob: Any, services: Services
) -> None:
    await bob.client.keys("bob")
    await alice.client.send("bob", "to whom?")
    services.deliver = tampering(another_key, *at_revision(2))
    services.faults["GetKeyInfo"] = [failing(UNAVAILABLE, "CA_UNAVAILABLE")] * FOR_EVER
    with pytest.raises(RefusedError, match="CA_UNAVAILABLE"):
        await bob.inbox()
    assert services.acknowledged == []
    assert bob.reasons("set_aside") == bob.reasons("waiting") == []
    services.faults["GetKeyInfo"] = []
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["NOT_FOR_THIS_DEVICE"]
