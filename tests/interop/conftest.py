"""The published peers, installed once, and a check that no process outlives its test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from interop.npm_cache import InstalledPeers, NotInstalledError, install_peers
from interop.stock_peers import StockPeers
from interop.stock_process import RUNNING

_HERE = Path(__file__).parent

INSTALL_AND_TEST_SECONDS_MAX = 900
"""The first test waits for the installation; its own waits are all far shorter."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker("interop")
            item.add_marker(pytest.mark.timeout(INSTALL_AND_TEST_SECONDS_MAX))


@pytest.fixture(scope="session")
def installed_peers() -> InstalledPeers:
    """The npm packages; skips where they cannot be had."""
    try:
        return install_peers()
    except NotInstalledError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def programs(installed_peers: InstalledPeers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our peer programs beside the packages they import: Node looks for these next to the file."""
    directory = tmp_path_factory.mktemp("peers")
    for program in (_HERE / "peers").glob("*.mjs"):
        shutil.copy(program, directory)
    (directory / "node_modules").symlink_to(installed_peers.modules, target_is_directory=True)
    return directory


@pytest.fixture
def stock(installed_peers: InstalledPeers, programs: Path, tmp_path: Path) -> Iterator[StockPeers]:
    """Start stock peers with this; none may be left running."""
    yield StockPeers(installed_peers, programs, tmp_path)
    left = list(RUNNING)
    for group in left:
        RUNNING.discard(group)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    assert not left, f"process groups {left} were left running"


@pytest.fixture
def sqlite_peers(stock: StockPeers) -> StockPeers:
    """As ``stock``; skips where the peers have no SQLite."""
    if stock.installed.without_sqlite:
        pytest.skip(stock.installed.without_sqlite)
    return stock
