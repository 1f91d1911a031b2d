"""
The published peers, installed once for each version of ``package.json`` into a cache outside the checkout.

``package.json`` pins what the wire was recorded from; no lock file is kept, so no registry is named here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helpers.npm_packages import NPM_OPTIONS, InstalledPackages, NotInstalledError, install_packages, run_program

__all__ = ["InstalledPeers", "NotInstalledError", "install_peers"]

BUILD_SECONDS_MAX = 420.0
"""better-sqlite3 compiles SQLite where no ready-made build can be had: two minutes on a slow core."""

_HERE = Path(__file__).parent


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
    manifest = (_HERE / "package.json").read_bytes()
    # Only better-sqlite3 needs its install script, and the tests with memory storage can do without.
    packages = install_packages("agentlayers-interop", manifest, _build_sqlite)
    reason = _reason_file(packages)
    return InstalledPeers(packages.node, packages.modules, reason.read_text() if reason.exists() else "")


def _reason_file(packages: InstalledPackages) -> Path:
    return packages.directory / "without-sqlite"


def _build_sqlite(npm: str, packages: InstalledPackages) -> None:
    reason, here = _reason_file(packages), packages.directory
    reason.unlink(missing_ok=True)
    try:
        rebuild = [npm, "rebuild", "better-sqlite3", *NPM_OPTIONS]
        run_program(rebuild, seconds=BUILD_SECONDS_MAX, cwd=here, environment={"JOBS": "max"})
        use = "const D = require('better-sqlite3'); new D(':memory:').prepare('select 1').get()"
        run_program([packages.node, "-e", use], seconds=30, cwd=here)
    except NotInstalledError as error:
        reason.write_text(f"better-sqlite3 cannot be built: {error}")
