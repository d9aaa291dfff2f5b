"""How a test of an attack demands that a service refuses, and that whom it serves is served.

Which it is decides what the test shows without its defence: where the call was served, the attack did its harm; where
it was refused for another reason, another defence stopped the attack, and the map has to name that one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import grpc.aio

from keypost.errors import KeypostError, RefusedError
from support.service import error_info

if TYPE_CHECKING:
    from collections.abc import Awaitable

Answer = TypeVar("Answer")


async def refused(call: Awaitable[object], expected: str, harm: str = "", **metadata: str) -> None:
    """Demand that a call is refused for a reason.

    Args:
        call: The call.
        expected: The reason.
        harm: A reason that would itself be the harm: it misleads the victim.
        metadata: What the refusal says besides, where it matters.

    Raises:
        AssertionError: it was served, or refused for what would be the harm.
        AioRpcError, KeypostError: it was refused for another reason.
    """
    try:
        async with asyncio.timeout(20):
            await call
    except (grpc.aio.AioRpcError, KeypostError) as error:
        reason, told = _read(error)
        if reason == harm:
            raise AssertionError(f"the victim was told {harm}") from error
        if reason != expected or not metadata.items() <= told.items():
            raise
        return
    raise AssertionError(f"the call was served instead of refused for {expected}")


def _read(error: grpc.aio.AioRpcError | KeypostError) -> tuple[str, dict[str, str]]:
    if isinstance(error, KeypostError):
        return error.reason, error.metadata
    info = error_info(error)
    return info.reason, dict(info.metadata)


async def token_refused(call: Awaitable[object], cause: str) -> None:
    """Demand that a call is refused for its token; raises as :func:`refused`."""
    await refused(call, "TOKEN_REFUSED", cause=cause)


async def served(call: Awaitable[Answer]) -> Answer:
    """Return what a service answers to somebody whom the attack is to keep out.

    Raises:
        AssertionError: it refuses.
    """
    try:
        async with asyncio.timeout(20):
            return await call
    except (grpc.aio.AioRpcError, RefusedError) as error:
        details = str(error) if isinstance(error, RefusedError) else error.details()
        raise AssertionError(f"the victim was refused: {details}") from error


async def raised(failure: BaseException) -> None:
    """Raise what ``asyncio.gather`` returned of a call."""
    raise failure
