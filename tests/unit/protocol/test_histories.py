"""An honest history of keys is always accepted silently, a tampered one never, whoever looks, and however seldom.

``--hypothesis-profile=deep`` tries twenty times as many.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import ProtocolError, TreeBrokenError
from keypost.protocol.suites import STRONG, WEAK
from support.histories import History, Observer
from support.tampering import LIES, Lie

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES = settings().max_examples // 4
MINIMA = (STRONG, WEAK, STRONG, WEAK)
"""Of the observers: who looks seldom falls behind."""
WHICH = st.integers(0, 5)
SUITES = st.sampled_from([STRONG, STRONG, WEAK])
ACTS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([0.01, 1, 20, 45, 61, 95, 200, 300])),
    st.tuples(st.just("enroll"), SUITES),
    st.tuples(st.just("renew"), WHICH, SUITES),
    st.tuples(st.just("renew"), st.just(0), st.just(STRONG)),
    st.tuples(st.just("approve"), WHICH),
    st.tuples(st.just("approve"), st.just(0)),
    st.tuples(st.just("revoke"), WHICH, WHICH, st.integers(0, 2), st.sampled_from([0, 0.005, 1, 30])),
    st.tuples(st.just("announce_reset")),
    st.tuples(st.just("cancel_reset"), WHICH),
    st.tuples(st.just("look"), st.integers(0, len(MINIMA) - 1)),
    st.tuples(st.just("look"), st.just(0)),
)
HISTORIES = st.tuples(SUITES, st.lists(ACTS, min_size=3, max_size=20))
bounded = settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])


async def happen(first: Any, acts: Sequence[tuple[Any, ...]]) -> tuple[History, list[Observer]]:
    """Let a history happen, with looks at it in between and a last one of everybody."""
    history, observers = History(), [Observer(minimum) for minimum in MINIMA]
    await history.enroll(first)
    for act, *arguments in acts:
        if act == "look":
            await observers[arguments[0]].look(history)
        else:
            await history.do(act, *arguments)
    return history, observers


@bounded
@given(story=HISTORIES)
def test_an_honest_history_is_accepted_silently(story: tuple[Any, Any]) -> None:
    async def tell() -> None:
        history, observers = await happen(*story)
        for observer in (*observers, Observer(STRONG), Observer(WEAK)):
            await observer.look(history)

    asyncio.run(tell())


@bounded
@given(story=HISTORIES)
def test_a_tampered_history_is_never_accepted(story: tuple[Any, Any]) -> None:
    async def tell() -> None:
        history, observers = await happen(*story)
        for observer in observers:
            if observer.pins is None:
                continue
            for lie in LIES:
                told = lie(Lie(await history.shown(), history, observer))
                if told is not None:
                    with pytest.raises(ProtocolError):
                        observer.accepts(told, history)

    asyncio.run(tell())


@bounded
@given(story=HISTORIES)
def test_a_history_with_a_hole_is_never_accepted_at_first_contact(story: tuple[Any, Any]) -> None:
    async def tell() -> None:
        history, _ = await happen(*story)
        whole = await history.shown()
        for position in range(len(whole.history)):
            holed = pb.KeyInfo(record=whole.record, history=[*whole.history])
            del holed.history[position]
            with pytest.raises(TreeBrokenError):
                Observer(WEAK).verify(holed, history)

    asyncio.run(tell())


async def test_every_lie_is_told_and_refused() -> None:
    """A history that gives each of them something to lie about; else they would prove nothing."""
    history, observer, told = History(), Observer(STRONG), Counter[str]()
    await history.enroll(STRONG)
    for act in (
        ("approve", 0),
        ("approve", 1),
        ("renew", 2, STRONG),
        ("approve", 0),
        ("revoke", 3, 0, 1, 0),
        ("wait", 1),
    ):
        await observer.look(history)
        await history.do(*act)
    # At last what was replaced is out of the record, and only the history tells of it.
    for days, look in ((0, False), (0, True), (61, True)):
        if days:
            await history.do("revoke", 1, 0, 1, 0)
            await history.do("wait", days)
        if look:
            await observer.look(history)
        for lie in LIES:
            shown = lie(Lie(await history.shown(), history, observer))
            if shown is not None:
                told[lie.__name__] += 1
                with pytest.raises(ProtocolError):
                    observer.accepts(shown, history)
    assert [name for name, count in told.items() if not count] == []
