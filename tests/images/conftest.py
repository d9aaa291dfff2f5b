"""The image is built and the composed stack run, once, by ``make test-images`` alone: it takes minutes and root."""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.images.composed import Composed
from support.images.engine import Engine, missing
from support.images.parts import fetch_wheels, make_base, make_image, make_stores

if TYPE_CHECKING:
    from collections.abc import Iterator

ASKED = "KEYPOST_IMAGES"
"""``try``: skip where tools are missing; ``must``: fail there. Without it nothing is built, as in ``make test``."""


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    asked = os.environ.get(ASKED)
    if asked is None:
        pytest.skip("it builds images: type `make test-images`")
    if lacking := missing():
        reason = f"NO IMAGE WAS BUILT OR TESTED: this machine has no {', '.join(lacking)} (docs/images.md)"
        if asked == "must":
            pytest.fail(reason)
        pytest.skip(reason)
    # Not below pytest's folder, whose path may be too long for a socket and which is kept.
    folder = Path(tempfile.mkdtemp(prefix="keypost-images-"))
    engine = Engine(folder / "engine")
    try:
        yield engine
    finally:
        engine.remove()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def image(engine: Engine) -> Engine:
    """The engine, once it has the base, the image and the stand-ins for the stores."""
    wheels = engine.folder / "wheels"
    with ThreadPoolExecutor(1) as pool:
        fetched = pool.submit(fetch_wheels, wheels)
        make_base(engine)
        make_stores(engine)
        fetched.result()
    make_image(engine, wheels)
    return engine


@pytest.fixture(scope="session")
def stack(image: Engine) -> Composed:
    composed = Composed(image, f"keypost-test-{os.getpid()}")
    composed.up()
    return composed  # the engine removes everything
