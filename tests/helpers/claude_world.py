"""The real ``claude`` command in a directory of the test's own, talking to our stand-in of the Messages API."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agentlayers.runtime.backend import Prompt
from agentlayers.runtime.claude import ClaudeBackend
from agentlayers.runtime.claude_query import ClaudeQuery
from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.options import QueryOptions
from agentlayers.runtime.session_store import AgentSessionStore
from agentlayers.testing.messages_api import MessagesApi, Script, claude_environment

needs_claude = pytest.mark.skipif(
    sys.platform == "win32" or not ClaudeBackend.is_available(),
    reason="claude-agent-sdk is not installed: pip install 'agentlayers[claude]'",
)


@dataclass
class ClaudeWorld:
    """A stand-in API, a home and a working directory, and the backend that uses them."""

    api: MessagesApi
    home: Path
    directory: Path
    env: dict[str, str]
    sessions: AgentSessionStore | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def backend(self, **arguments: Any) -> ClaudeBackend:
        """Make a backend of this world."""
        options = {"setting_sources": [], "cwd": str(self.directory), **self.options}
        return ClaudeBackend(env=self.env, options=options, sessions=self.sessions, **arguments)

    @contextlib.asynccontextmanager
    async def query(self, prompt: Prompt, **options: Any) -> AsyncIterator[ClaudeQuery]:
        """Start a query, and end it whatever happens."""
        backend = self.backend()
        checked = QueryOptions.from_mapping(options, extra_options=backend.extra_options)
        query = await backend.start(prompt, checked)
        try:
            yield query
        finally:
            await query.aclose()

    async def ask(self, prompt: Prompt, **options: Any) -> list[AgentMessage]:
        """Ask, and return all messages."""
        async with self.query(prompt, **options) as query:
            return [message async for message in query]


@contextlib.asynccontextmanager
async def claude_world(base: Path, script: Script = "done", *, name: str = "home") -> AsyncIterator[ClaudeWorld]:
    """Prepare a world below ``base`` with a home of that name."""
    home, directory = base / name, base / f"{name}-work"
    for path in (home, directory, home / "tmp"):
        path.mkdir(parents=True, exist_ok=True)
    async with MessagesApi(script) as api:
        yield ClaudeWorld(api, home, directory, claude_environment(api.url, home))


@contextlib.contextmanager
def only_own_environment(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take away what a developer's shell says to the command, and let temporary files be made below ``base``."""
    for name in list(os.environ):
        if name.startswith(("ANTHROPIC_", "CLAUDE")):
            monkeypatch.delenv(name)
    temporary = base / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    yield
    assert list(temporary.iterdir()) == []


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the developer's shell out of each test of a module that imports this, and hold it to leaving no process."""
    before = children()
    with only_own_environment(tmp_path, monkeypatch):
        yield
    assert children() <= before


async def until_file(path: Path) -> None:
    """Wait for a file that a tool makes; nobody else tells that the tool has begun."""
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(path.exists):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def children() -> set[int]:
    """Processes whose parent this process is, zombies included."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            if (
                entry.name.isdecimal()
                and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
            ):
                found.add(int(entry.name))
    return found


def processes_of(world: ClaudeWorld) -> list[str]:
    """Whatever runs with the home of this world, or in its directory; zombies among our children are in `children`."""
    needles = (f"HOME={world.home}".encode(), f"ANTHROPIC_BASE_URL={world.api.url}".encode())
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                variables = (entry / "environ").read_bytes().split(b"\x00")
                if any(needle in variables for needle in needles):
                    found.append((entry / "cmdline").read_bytes().replace(b"\x00", b" ").decode()[:100])
    return found


def foreign_connections(pids: set[int]) -> list[str]:
    """Addresses of TCP connections of these processes that leave this machine, as the kernel writes them."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for link in (Path("/proc") / str(pid) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = [
        row.split() for table in ("tcp", "tcp6") for row in (Path("/proc/net") / table).read_text().splitlines()[1:]
    ]
    remote = [row[2] for row in rows if row[9] in inodes]
    local = ("0100007F:", "00000000:", "0" * 32 + ":", "0000000000000000FFFF00000100007F:", "0" * 24 + "01000000:")
    return [address for address in remote if not address.startswith(local)]
