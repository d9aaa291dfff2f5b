"""What tests of several folders share: their order, and servers that take long to start, one of each a test process."""

from __future__ import annotations

import gc
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from support.measured import CoverageSwitch
from support.order import longest_first
from support.valkey_cluster import Cluster, running_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has what it runs in the background ignore it, and so would every program that a test interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


COVERAGE = pytest.StashKey[CoverageSwitch]()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Valkey Cluster of three masters with a replica each, for tests that leave it as it was."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.hookimpl(tryfirst=True)  # before what its fixtures start
def pytest_runtest_protocol(item: pytest.Item) -> None:
    if COVERAGE not in item.config.stash:
        measures = sys.modules.get("coverage")
        item.config.stash[COVERAGE] = CoverageSwitch(measures.Coverage.current if measures else lambda: None)
    item.config.stash[COVERAGE].move_to(item.path)


def pytest_collection_finish() -> None:
    gc.freeze()  # ten thousand tests and what they import live until the end: the collector need not look at them again


@pytest.hookimpl(trylast=True)  # after the order was drawn
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    longest_first(items)
