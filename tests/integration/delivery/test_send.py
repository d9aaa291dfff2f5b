from __future__ import annotations

from support.delivery import Stack, text_of


async def test_a_message_is_stored_and_received(stack: Stack) -> None:
    alice_pair, bob_pair = stack.realm.enroll("alice"), stack.realm.enroll("bob")
    service = await stack.start()
    alice = await stack.device(alice_pair, service.public_port)
    bob = await stack.device(bob_pair, service.public_port)
    response = await alice.send_text("bob", "hello")
    assert response.stored.accept_time == stack.clock()
    assert not response.stored.duplicate
    async with bob.receive() as stream:
        (delivery,) = await stream.batch()
        await stream.queue_empty()
        assert text_of(delivery, bob_pair) == "hello"
