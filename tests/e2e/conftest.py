from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.stack import running_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keypost_services.embedded.stack import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack
