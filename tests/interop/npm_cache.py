"""
The published peers, installed once for each version of ``package.json`` into a cache outside the checkout.

``package.json`` pins what the wire was recorded from; no lock file is kept, so no registry is named here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["InstalledPeers", "NotInstalledError", "install_peers"]

INSTALL_SECONDS_MAX = 240.0
"""npm on a slow line; offline it gives up much sooner."""

BUILD_SECONDS_MAX = 420.0
"""better-sqlite3 compiles SQLite where no ready-made build can be had: two minutes on a slow core."""

FAILURE_SECONDS = 600.0
"""So long a failed attempt counts for all test processes, so that not each of them waits for it again."""

_HERE = Path(__file__).parent


class NotInstalledError(Exception):
    """The peers cannot be had here; the text is the reason for skipping."""


@dataclass(frozen=True)
class InstalledPeers:
    """
    Where the packages are.

    Attributes:
        node: The program that runs them.
        modules: Their ``node_modules``.
        without_sqlite: Why better-sqlite3 cannot be used; empty if it can.
    """

    node: str
    modules: Path
    without_sqlite: str


def install_peers() -> InstalledPeers:
    """
    Return the installed packages, installing them first if this has not been done yet.

    Raises:
        NotInstalledError: There is no Node, or npm fails, as it does offline.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NotInstalledError("needs Node.js and npm: neither may be missing from PATH")
    manifest = (_HERE / "package.json").read_bytes()
    version = _run([node, "--version"], seconds=30)
    key = hashlib.sha256(b"\0".join([manifest, version.encode(), sys.platform.encode()])).hexdigest()[:16]
    directory = _cache_root() / key
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / "lock"):
        if not (directory / "installed").exists():
            _install_once(npm, node, directory, manifest)
        reason = (directory / "without-sqlite").read_text() if (directory / "without-sqlite").exists() else ""
        return InstalledPeers(node, directory / "node_modules", reason)


def _cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base else Path.home() / ".cache"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except (OSError, RuntimeError):
        root = Path(tempfile.gettempdir())
    return root / "agentlayers-interop"


def _locked(path: Path) -> _Lock:
    return _Lock(path)


class _Lock:
    """A lock that the operating system releases when its holder dies: a transaction on an empty database."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        seconds = INSTALL_SECONDS_MAX + BUILD_SECONDS_MAX + 60
        self._database = sqlite3.connect(self._path, timeout=seconds, isolation_level=None)
        try:
            self._database.execute("BEGIN EXCLUSIVE")
        except BaseException:
            self._database.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._database.close()


def _install_once(npm: str, node: str, directory: Path, manifest: bytes) -> None:
    failed = directory / "failed"
    if failed.exists() and time.time() - failed.stat().st_mtime < FAILURE_SECONDS:
        raise NotInstalledError(failed.read_text())
    shutil.rmtree(directory / "node_modules", ignore_errors=True)
    (directory / "package.json").write_bytes(manifest)
    common = ["--no-audit", "--no-fund", "--no-package-lock", "--legacy-peer-deps", "--loglevel=error"]
    quick = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000"]
    try:
        # Only better-sqlite3 needs its install script, and the tests with memory storage can do without.
        _run([npm, "install", "--ignore-scripts", *common, *quick], seconds=INSTALL_SECONDS_MAX, cwd=directory)
    except NotInstalledError as error:
        failed.write_text(f"the npm peers cannot be installed: {error}")
        raise NotInstalledError(failed.read_text()) from None
    without_sqlite = directory / "without-sqlite"
    without_sqlite.unlink(missing_ok=True)
    try:
        jobs = {"JOBS": "max"}
        _run([npm, "rebuild", "better-sqlite3", *common], seconds=BUILD_SECONDS_MAX, cwd=directory, environment=jobs)
        use = "const D = require('better-sqlite3'); new D(':memory:').prepare('select 1').get()"
        _run([node, "-e", use], seconds=30, cwd=directory)
    except NotInstalledError as error:
        without_sqlite.write_text(f"better-sqlite3 cannot be built: {error}")
    failed.unlink(missing_ok=True)
    (directory / "installed").touch()


def _run(
    command: Sequence[str], *, seconds: float, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Run a program to its end, with its output in a file, and kill all it started if it takes too long."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise NotInstalledError(f"{Path(command[0]).name} took more than {seconds:g} s") from None
        finally:
            if process.poll() is None:
                _kill(process)
        output.seek(0)
        text = output.read().decode(errors="replace").strip()
    if code != 0:
        raise NotInstalledError(f"{Path(command[0]).name} {command[1]} failed ({code}): {text[-400:]}")
    return text


def _kill(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait(10)
