"""The check on the whole session would notice a nonce used twice, wherever it happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentlayers.crypto.encryption import AesGcmEncryption
from helpers.nonce_recorder import nonce_recorder

HERE = Path(__file__).parents[2]
TEST = """
from agentlayers.crypto.encryption import AesGcmEncryption

def test_one():
    AesGcmEncryption().seal(bytes(32), b"one")
    AesGcmEncryption(random={random}).seal(bytes(32), b"two")

def test_other():
    AesGcmEncryption(random={random}).seal(bytes(32), b"three")
"""
CHILD = """
import subprocess, sys

def test_a_process():
    code = "from agentlayers.crypto import AesGcmEncryption; AesGcmEncryption(random=bytes).seal(bytes(32), b'x')"
    for _ in range({times}):
        subprocess.run([sys.executable, "-c", code], check=True)
"""


def run(tmp_path: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a session of its own with this repository's conftest."""
    (tmp_path / "conftest.py").write_text((HERE / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "test_it.py").write_text(text, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "AGENTLAYERS"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={tmp_path}",
         "-o", f"pythonpath={HERE}", *options, str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "in workers"])
def test_a_repeated_nonce_fails_a_session_whose_tests_pass(tmp_path: Path, options: tuple[str, ...]) -> None:
    outcome = run(tmp_path, TEST.format(random="bytes"), *options)

    assert outcome.returncode == 1, outcome.stdout
    assert "2 passed" in outcome.stdout
    assert "NONCE USED TWICE with one key: test_it.py::test_" in outcome.stdout
    assert "3 (key, nonce) pairs were sealed with, 1 of them twice" in outcome.stdout


def test_random_nonces_pass(tmp_path: Path) -> None:
    outcome = run(tmp_path, TEST.format(random="__import__('os').urandom"))

    assert outcome.returncode == 0, outcome.stdout
    assert "3 (key, nonce) pairs were sealed with, 0 of them twice" in outcome.stdout


@pytest.mark.parametrize("times", [1, 2])
def test_what_processes_of_a_test_seal_counts(tmp_path: Path, times: int) -> None:
    outcome = run(tmp_path, CHILD.format(times=times))

    assert outcome.returncode == times - 1, outcome.stdout
    assert ("a process of test_it.py::test_a_process" in outcome.stdout) is (times == 2)


def test_this_session_is_recorded() -> None:
    directory = Path(os.environ[nonce_recorder.DIRECTORY])
    before, _ = nonce_recorder.repeated(directory)
    AesGcmEncryption().seal(os.urandom(32), b"counted")

    assert nonce_recorder.repeated(directory)[0] > before
