"""The commands of docs/howto/inspect-a-journal.md run as they stand there, one after the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "howto" / "inspect-a-journal.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


async def test_every_command_works(tmp_path: Path) -> None:
    directory = tmp_path / "replica"
    identity = Identity.load_or_create(directory / "identity")
    async with (
        SQLiteJournal(directory) as journal,
        ChatHistoryStore(journal, identity) as chat,
        AuditEventStore(journal, identity) as audit,
    ):
        await chat.append_all("s", [{"text": "hello"}] * 3)
        await audit.tool_use(session_id="s", tool_name="t", status="success")
    command = tmp_path / "bin" / "agentlayers"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m agentlayers "$@"\n')
    command.chmod(0o700)
    outputs = run_all(tmp_path)

    assert len(COMMANDS) > 14
    assert "hello" in outputs["agentlayers journal search ./replica hello"]
    assert outputs["agentlayers journal verify ./replica"].endswith("good\n")
    assert outputs["agentlayers journal verify ./other"].endswith("good\n")
    assert identity.public_key in outputs["agentlayers identity show ./other"]


def run_all(directory: Path) -> dict[str, str]:
    outputs: dict[str, str] = {}
    path = f"{directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
    for line in COMMANDS:
        outcome = subprocess.run(
            ["/bin/sh", "-c", line], cwd=directory, capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "PATH": path},
        )  # fmt: skip
        assert outcome.returncode == 0, f"{line}: {outcome.stderr}"
        outputs[line] = outcome.stdout
    return outputs


def test_the_export_format_page_names_the_formats_of_the_code() -> None:
    from agentlayers.storage.export import FORMAT, FORMAT_VERSION
    from agentlayers.storage.sealed_export import SEALED_FORMAT, SEALED_VERSION

    page = (DOCS / "reference" / "export-format.md").read_text(encoding="utf-8")

    assert f"`{FORMAT}`, version {FORMAT_VERSION}" in page
    assert f"`{SEALED_FORMAT}`, version {SEALED_VERSION}" in page
