"""Bad input to every method of delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from support.bad_input import delivery, properties

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.bad_input.surface import Surface

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.parametrize("name", delivery.NAMES)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def surface(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Surface]:
    async with delivery.open_surface(tmp_path_factory.mktemp("delivery")) as opened:
        yield opened


async def test_what_is_nasty_is_refused_by_the_name_of_its_field(surface: Surface, name: str) -> None:
    await properties.check_nasty(surface, name)


@properties.BRIEF
@given(data=st.data())
async def test_whatever_is_bad_is_refused_by_the_name_of_its_field(
    surface: Surface, name: str, data: st.DataObject
) -> None:
    await properties.check_any_value(surface, name, data)


@properties.BRIEF
@given(raw=st.binary(max_size=300))
async def test_any_bytes_are_refused_or_understood(surface: Surface, name: str, raw: bytes) -> None:
    await properties.check_any_bytes(surface, name, raw)
