"""Look-ups that are meant to wear the CA out; against the directory, by a client that is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keypost.directory.v1 import directory_service_pb2 as pb
from support.ca_service import REALM
from support.refusals import refused

if TYPE_CHECKING:
    from support.plain_client import PlainDevice
    from support.plain_stack import PlainStack

QUESTIONS = "keypost_directory_ca_questions_total"
MANY = 20


async def look_up(device: PlainDevice, **request: Any) -> None:
    directory: Any = device.directory
    metadata = device.metadata(device.token(aud=f"{REALM}/directory"))
    await directory.GetKeyInfo(pb.GetKeyInfoRequest(**request), metadata=metadata, timeout=20)


def questions(stack: PlainStack) -> float:
    """Return how often the directory has asked the CA."""
    return stack.directory.runtime.metrics.get_sample_value(QUESTIONS, {"outcome": "answered"}) or 0.0


async def test_revisions_that_do_not_exist_are_asked_for(plain_stack: PlainStack) -> None:
    mallory = await plain_stack.enroll("mallory")
    await look_up(mallory, username="mallory")
    before = questions(plain_stack)
    for number in range(MANY):
        await look_up(mallory, username="mallory", min_revision=2**62 + number)
    assert before < questions(plain_stack) <= before + 2


async def test_users_who_do_not_exist_are_asked_for(plain_stack: PlainStack) -> None:
    mallory = await plain_stack.enroll("mallory")
    await refused(look_up(mallory, username="nobody"), "USER_NOT_FOUND")
    before = questions(plain_stack)
    for number in range(MANY):
        await refused(look_up(mallory, username="nobody", min_revision=number % 2), "USER_NOT_FOUND")
    assert questions(plain_stack) <= before + 2


async def test_a_thousand_users_in_one_call(plain_stack: PlainStack) -> None:
    mallory = await plain_stack.enroll("mallory")
    directory: Any = mallory.directory
    request = pb.BatchGetKeyInfoRequest(usernames=[f"user{number}" for number in range(1_000)])
    await look_up(mallory, username="mallory")
    metadata = mallory.metadata(mallory.token(aud=f"{REALM}/directory"))
    before = questions(plain_stack)
    call = directory.BatchGetKeyInfo(request, metadata=metadata, timeout=20)
    await refused(call, "INVALID_FIELD", field="usernames")
    assert questions(plain_stack) == before
