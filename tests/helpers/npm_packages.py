"""
npm packages for tests, installed once for each version of a ``package.json`` into a cache outside the checkout.

No lock file is kept, so no registry is named here.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NPM_OPTIONS", "InstalledPackages", "NotInstalledError", "install_packages", "run_program"]

INSTALL_SECONDS_MAX = 240.0
"""npm on a slow line; offline it gives up much sooner."""

LOCK_SECONDS_MAX = 720.0
"""So long one test process waits for another that installs, and builds what it installed."""

FAILURE_SECONDS = 600.0
"""So long a failed attempt counts for all test processes, so that not each of them waits for it again."""

NPM_OPTIONS = ("--no-audit", "--no-fund", "--no-package-lock", "--legacy-peer-deps", "--loglevel=error")


class NotInstalledError(Exception):
    """The packages cannot be had here; the text is the reason for skipping."""


@dataclass(frozen=True)
class InstalledPackages:
    """
    Where the packages are.

    Attributes:
        node: The program that runs them.
        directory: The one above their ``node_modules``.
    """

    node: str
    directory: Path

    @property
    def modules(self) -> Path:
        """Their ``node_modules``."""
        return self.directory / "node_modules"


def install_packages(
    cache: str, manifest: bytes, then: Callable[[str, InstalledPackages], None] | None = None
) -> InstalledPackages:
    """
    Return the packages a ``package.json`` names, installing them first if this has not been done yet.

    Install scripts are not run.

    Args:
        cache: Name of the folder in the user's cache directory.
        manifest: The text of the ``package.json``.
        then: Called once after the installation, with the path of npm.

    Raises:
        NotInstalledError: There is no Node, or npm fails, as it does offline.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NotInstalledError("needs Node.js and npm: neither may be missing from PATH")
    version = run_program([node, "--version"], seconds=30)
    key = hashlib.sha256(b"\0".join([manifest, version.encode(), sys.platform.encode()])).hexdigest()[:16]
    installed = InstalledPackages(node, _cache_root() / cache / key)
    installed.directory.mkdir(parents=True, exist_ok=True)
    with _Lock(installed.directory / "lock"):
        if not (installed.directory / "installed").exists():
            _install(npm, installed.directory, manifest)
            if then is not None:
                then(npm, installed)
            (installed.directory / "installed").touch()
    return installed


def _cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base else Path.home() / ".cache"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except (OSError, RuntimeError):
        root = Path(tempfile.gettempdir())
    return root


class _Lock:
    """A lock that the operating system releases when its holder dies: a transaction on an empty database."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._database = sqlite3.connect(self._path, timeout=LOCK_SECONDS_MAX, isolation_level=None)
        try:
            self._database.execute("BEGIN EXCLUSIVE")
        except BaseException:
            self._database.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._database.close()


def _install(npm: str, directory: Path, manifest: bytes) -> None:
    failed = directory / "failed"
    if failed.exists() and time.time() - failed.stat().st_mtime < FAILURE_SECONDS:
        raise NotInstalledError(failed.read_text())
    shutil.rmtree(directory / "node_modules", ignore_errors=True)
    (directory / "package.json").write_bytes(manifest)
    quick = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000"]
    try:
        command = [npm, "install", "--ignore-scripts", *NPM_OPTIONS, *quick]
        run_program(command, seconds=INSTALL_SECONDS_MAX, cwd=directory)
    except NotInstalledError as error:
        failed.write_text(f"the npm packages cannot be installed: {error}")
        raise NotInstalledError(failed.read_text()) from None
    failed.unlink(missing_ok=True)


def run_program(
    command: Sequence[str], *, seconds: float, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """
    Run a program to its end, with its output in a file, and kill all it started if it takes too long.

    Raises:
        NotInstalledError: It failed or took too long.
    """
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
