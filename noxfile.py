"""
Everything a change has to pass: ``nox`` runs it all, ``nox -s NAME`` one part.

The sessions use the environment nox itself runs in (``pip install '.[dev]'`` provides all they need).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "imports", "tests"]
nox.options.stop_on_first_error = True


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """Check that rooms import one way."""
    session.run("lint-imports")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on both cores, slow ones in their short form; what follows ``--`` goes to pytest."""
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "worksteal", "-m", "not slow", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the long forms: hundreds of kills, hundreds of thousands of mutated frames, large files."""
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "worksteal", "-m", "slow", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the hot paths at full size and print the figures; asserts nothing."""
    for script in sorted(Path("tests/bench").glob("bench_*.py")):
        session.run("python", str(script), *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it into an empty environment and run the demo from there."""
    with tempfile.TemporaryDirectory() as directory:
        session.run("python", "-m", "build", "--wheel", "--outdir", directory)
        session.run("python", "-m", "venv", f"{directory}/venv")
        built = next(Path(directory).glob("*.whl"))
        session.run(f"{directory}/venv/bin/pip", "install", "--quiet", str(built), external=True)
        session.run(f"{directory}/venv/bin/agentlayers", "demo", external=True)
