"""Every command explains itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

AGENTLAYERS = [sys.executable, "-m", "agentlayers"]
COMMANDS = [
    (), ("demo",), ("run",), ("serve",), ("sync",), ("status",), ("check",), ("graph",), ("schema",),
    ("journal",), ("journal", "stats"), ("journal", "list"), ("journal", "show"), ("journal", "search"),
    ("journal", "conflicts"), ("journal", "remotes", "forget"), ("journal", "verify"), ("journal", "rebuild"),
    ("journal", "compact"), ("journal", "export"), ("journal", "import"), ("identity",), ("identity", "new"),
    ("import",), ("import", "claude-code"), ("watch",), ("watch", "claude-code"),
    ("chat",), ("chat", "list"), ("chat", "show"), ("chat", "search"), ("chat", "export"),
    ("identity", "show"), ("identity", "import"), ("identity", "export"),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "agentlayers")
def test_help_reads_well(command: tuple[str, ...]) -> None:
    outcome = subprocess.run(
        [*AGENTLAYERS, *command, "--help"], capture_output=True, text=True, timeout=60, check=False
    )

    assert outcome.returncode == 0, outcome.stderr
    assert "Usage:" in outcome.stdout
    assert len(outcome.stdout.splitlines()) > 8


def test_an_unknown_command_is_refused_with_a_hint() -> None:
    outcome = subprocess.run([*AGENTLAYERS, "demoo"], capture_output=True, text=True, timeout=60, check=False)

    assert outcome.returncode == 2
    assert "demoo" in outcome.stderr
    assert "Traceback" not in outcome.stderr
