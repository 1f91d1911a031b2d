"""
What holds for the whole session: no test hangs on how fast the machine is, and no nonce is used twice with one key, in
any test or any process that one starts.

A test that has to seal with a nonce from a recording is marked ``fixed_nonce``, and what it seals does not count.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from helpers.nonce_recorder import nonce_recorder

_DIRECTORY = pytest.StashKey[Path]()
_FOUND = pytest.StashKey[tuple[int, list[tuple[str, str]]]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin to record here and in all processes started from here; xdist's workers share the controller's directory."""
    # A slow machine is no fault of what is tested.
    settings.register_profile("suite", deadline=None)
    settings.load_profile("suite")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what runs in the background so, and every process of a test would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "fixed_nonce: seals with a nonce from a recording, which may come again")
    if not hasattr(config, "workerinput"):
        directory = config.stash[_DIRECTORY] = Path(tempfile.mkdtemp(prefix="agentlayers-nonces-"))
        os.environ[nonce_recorder.DIRECTORY] = str(directory)
        paths = [str(Path(nonce_recorder.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    nonce_recorder.install(os.environ[nonce_recorder.DIRECTORY])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Know which test seals."""
    nonce_recorder.note_test(item.nodeid, counts=item.get_closest_marker("fixed_nonce") is None)
    return (yield)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session if a pair was seen twice."""
    directory = session.config.stash.get(_DIRECTORY, None)
    if directory is None:
        return
    session.config.stash[_FOUND] = count, found = nonce_recorder.repeated(directory)
    if found and count:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many pairs there were, and which tests repeated one."""
    count, found = config.stash.get(_FOUND, (0, []))
    for one, two in found[:10]:
        terminalreporter.write_line(f"NONCE USED TWICE with one key: {one} and {two}", red=True)
    if count:
        terminalreporter.write_line(f"{count:,} (key, nonce) pairs were sealed with, {len(found)} of them twice")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the files."""
    directory = config.stash.get(_DIRECTORY, None)
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)
