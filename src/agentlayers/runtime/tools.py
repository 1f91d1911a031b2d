"""
The tools of a scripted agent: real files and real commands inside one directory.

Nothing outside the directory is read or written by the file tools, symbolic links included. A command is
a real process of this machine, so it *can* leave the directory: scripts are code, and as trusted as code.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from agentlayers.errors import SettingsError, ToolError
from agentlayers.limits import TOOL_OUTPUT_BYTES_MAX
from agentlayers.runtime.command import Command
from agentlayers.settings import parse_seconds

__all__ = ["TOOL_NAMES", "ToolOutcome", "Workspace"]

TOOL_NAMES: Final = ("write_file", "read_file", "list_files", "run_command")
"""Every tool, as in the init message."""

COMMAND_TIMEOUT_SECONDS: Final = 30.0
"""For a command that sets no timeout of its own."""

LISTED_FILES_MAX: Final = 10_000
"""Paths that one list_files names."""

_INHERITED_VARIABLES: Final = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT")
"""What a command sees of our environment: enough to run, none of the secrets."""


@final
@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """
    What a tool call came to.

    Attributes:
        content: What the agent is told.
        is_error: It failed.
        structured: The tool's own result, as kept in ``tool_use_result``.
    """

    content: str
    is_error: bool = False
    structured: Any = None

    @classmethod
    def failed(cls, text: str) -> ToolOutcome:
        """Say that the call failed; ``tool_use_result`` is then a text, as the real software does it."""
        return cls(text, is_error=True, structured=f"Error: {text}")


@final
class Workspace:
    """
    Executes tool calls inside one directory.

    Args:
        root: The directory; made when the first tool runs.
        env: Added to the environment of commands.
        command_timeout_seconds: For commands that set none.
        output_bytes_max: Output kept of one call; the rest is read and dropped, and the result says so.
    """

    def __init__(
        self,
        root: Path,
        *,
        env: Mapping[str, str] | None = None,
        command_timeout_seconds: float = COMMAND_TIMEOUT_SECONDS,
        output_bytes_max: int = TOOL_OUTPUT_BYTES_MAX,
    ) -> None:
        self.root = root
        self._env = dict(env or {})
        self._timeout = command_timeout_seconds
        self._output_bytes_max = output_bytes_max
        self._tools: dict[str, Callable[[Mapping[str, Any]], Awaitable[ToolOutcome]]] = {
            "write_file": self._write_file,
            "read_file": self._read_file,
            "list_files": self._list_files,
            "run_command": self._run_command,
        }

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        """
        Run one tool; whatever goes wrong is told to the agent, never raised.

        When cancelled, a running command and everything it started is killed first.
        """
        tool = self._tools.get(name)
        if tool is None:
            return ToolOutcome.failed(f"no tool named {name!r}; there are {', '.join(self._tools)}")
        try:
            await asyncio.to_thread(self.root.mkdir, parents=True, exist_ok=True)
            return await tool(arguments)
        except ToolError as error:
            return ToolOutcome.failed(str(error))
        except SettingsError as error:
            return ToolOutcome.failed(f"{name}: {error}")
        except OSError as error:
            return ToolOutcome.failed(
                f"{name}: {error.strerror or error}: {error.filename or arguments.get('path', '')}"
            )

    def resolve(self, path: Any) -> Path:
        """
        Turn a path of a tool call into a real one.

        Raises:
            ToolError: It is no path, or leads out of the directory.
        """
        if not isinstance(path, str) or not path or "\0" in path:
            raise ToolError(f"path must be a text that is not empty, got {path!r}")
        root = self.root.resolve()
        resolved = (root / path).resolve()
        if not resolved.is_relative_to(root):
            raise ToolError(f"{path!r} leads out of the working directory; use a path inside it")
        return resolved

    async def _write_file(self, arguments: Mapping[str, Any]) -> ToolOutcome:
        content = arguments.get("content")
        if not isinstance(content, str):
            raise ToolError(f"write_file: content must be a text, got {type(content).__name__}")
        created = await asyncio.to_thread(self._write, arguments.get("path"), content)
        size = len(content.encode())
        shown = str(arguments["path"])
        text = f"{'created' if created else 'replaced'} {shown} ({size} bytes)"
        return ToolOutcome(
            text,
            structured={
                "type": "create" if created else "update",
                "filePath": shown,
                "content": content,
            },
        )

    def _write(self, path: Any, content: str) -> bool:
        target = self.resolve(path)
        created = not target.exists()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8", newline="")
        return created

    async def _read_file(self, arguments: Mapping[str, Any]) -> ToolOutcome:
        data = await asyncio.to_thread(self._read, arguments.get("path"))
        text = self._bounded(data)
        return ToolOutcome(
            text,
            structured={
                "type": "text",
                "file": {"filePath": str(arguments["path"]), "content": text},
            },
        )

    def _read(self, path: Any) -> bytes:
        with self.resolve(path).open("rb") as file:
            return file.read(self._output_bytes_max + 1)

    async def _list_files(self, arguments: Mapping[str, Any]) -> ToolOutcome:
        names = await asyncio.to_thread(self._list, arguments.get("path", "."))
        text = "\n".join(names[:LISTED_FILES_MAX]) or "(no files)"
        return ToolOutcome(
            self._bounded(text.encode()),
            structured={
                "filenames": names[:LISTED_FILES_MAX],
                "numFiles": min(len(names), LISTED_FILES_MAX),
                "truncated": len(names) > LISTED_FILES_MAX,
            },
        )

    def _list(self, path: Any) -> list[str]:
        start = self.resolve(path)
        if not start.is_dir():
            raise ToolError(f"{path!r} is no directory")
        root = self.root.resolve()
        names: list[str] = []
        for directory, folders, files in os.walk(start):
            folders.sort()
            names.extend(str((Path(directory) / name).relative_to(root)) for name in sorted(files))
            if len(names) > LISTED_FILES_MAX:
                break
        return names

    async def _run_command(self, arguments: Mapping[str, Any]) -> ToolOutcome:
        timeout = parse_seconds(arguments.get("timeout", self._timeout), setting="timeout")
        command = Command(
            _command(arguments.get("command")),
            directory=self.root,
            environment=self._environment(),
            output_bytes_max=self._output_bytes_max,
        )
        has_ended = await command.run(timeout)
        return self._command_outcome(command, None if has_ended else timeout)

    def _command_outcome(self, command: Command, timed_out: float | None) -> ToolOutcome:
        out, err = self._bounded(command.stdout), self._bounded(command.stderr)
        structured = {
            "stdout": out,
            "stderr": err,
            "interrupted": timed_out is not None,
            "exitCode": command.exit_code,
        }
        text = "\n".join(part.rstrip("\n") for part in (out, err) if part)
        if timed_out is not None:
            text = f"no end within {timed_out:g} s; the command was killed\n{text}".rstrip()
        elif command.exit_code:
            text = f"exit status {command.exit_code}\n{text}".rstrip()
        return ToolOutcome(text, is_error=timed_out is not None or command.exit_code != 0, structured=structured)

    def _bounded(self, data: bytes) -> str:
        text = data[: self._output_bytes_max].decode("utf-8", "replace")
        if len(data) > self._output_bytes_max:
            return f"{text}\n[cut at {self._output_bytes_max} bytes]"
        return text

    def _environment(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
        return {**inherited, "HOME": str(self.root), **self._env}


def _command(command: Any) -> list[str]:
    if isinstance(command, str) and command.strip():
        return ["/bin/sh", "-c", command]
    if isinstance(command, list | tuple) and command and all(isinstance(part, str) for part in command):
        return list(command)
    raise ToolError(f"run_command: command must be a text or a list of texts, got {command!r}")
