"""What holds of every method, whatever is sent to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from support.bad_input.places import UNKNOWN_FIELD, values
from support.bad_input.rules import invalid

if TYPE_CHECKING:
    from support.bad_input.surface import Surface

BRIEF = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
"""As many as there is time for, and in each run the same."""


async def check_nasty(surface: Surface, name: str) -> None:
    """Each field, with everything in its place that is known to make trouble."""
    places = await surface.places(name)
    assert {place.rule for place in places} == set(surface.exchanges[name].rules), "each field has a rule, and no other"
    wrong = [wrong for place in places for wrong in await surface.try_nasty(name, place)]
    assert not wrong, "\n".join(wrong)
    more = (await surface.good(name)).SerializeToString() + UNKNOWN_FIELD
    assert await surface.send(name, more) == "OK", "a field of a later version is ignored"
    await surface.check_unharmed(name)


async def check_any_value(surface: Surface, name: str, data: st.DataObject) -> None:
    """Any field, with anything in its place."""
    places = await surface.places(name)
    if not places:
        return
    place = data.draw(st.sampled_from(places))
    wrong = await surface.try_value(name, place, data.draw(values(place)))
    assert not wrong, wrong


async def check_any_bytes(surface: Surface, name: str, raw: bytes) -> None:
    """Bytes that are no request are refused as such; others for a field of them."""
    kind = type(await surface.good(name))
    outcome = await surface.send(name, raw)
    try:
        kind.FromString(raw)
    except DecodeError:
        assert outcome.startswith(invalid("")), outcome
    else:
        assert outcome in {"OK", *surface.exchanges[name].understood} or outcome.startswith(invalid("")), outcome
