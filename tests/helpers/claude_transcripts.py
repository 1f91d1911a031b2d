"""Transcripts as Claude Code writes them, made by the test: nobody's private data."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

__all__ = ["SESSION", "TranscriptWriter"]

SESSION = "5c047d02-d1a9-4076-ad2b-ee356e02f23b"
BEGAN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass
class TranscriptWriter:
    """Appends lines to one session's file, a second after the other."""

    projects: Path
    project: str = "-home-me-app"
    session: str = SESSION
    subpath: str = ""
    now: datetime = BEGAN
    lines: int = 0
    parent: str | None = None
    made: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def path(self) -> Path:
        """The file."""
        below = f"{self.session}/{self.subpath}" if self.subpath else self.session
        return self.projects / self.project / f"{below}.jsonl"

    def raw(self, text: str, *, end: str = "\n") -> None:
        """Append a text as it is."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + end)
        self.lines += 1

    def line(self, **fields: Any) -> dict[str, Any]:
        """Append one line of any type, without uuid and time."""
        record = {**fields, "sessionId": self.session}
        self.made.append(record)
        self.raw(json.dumps(record, ensure_ascii=False, separators=(",", ":")))
        return record

    def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Append one line with what every line of a conversation has."""
        self.now += timedelta(seconds=1)
        made = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.session}/{self.subpath}/{self.lines}/{self.now}"))
        stamp = self.now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        record = {
            "parentUuid": self.parent, "isSidechain": bool(self.subpath), "type": kind, **fields, "uuid": made,
            "timestamp": stamp, "userType": "external", "cwd": "/home/me/app", "version": "2.1.330",
            "gitBranch": "main",
        }  # fmt: skip
        self.parent = made
        return self.line(**record)

    def prompt(self, text: str, **fields: Any) -> dict[str, Any]:
        """Append what a person typed."""
        return self.event("user", message={"role": "user", "content": text}, **fields)

    def say(self, text: str) -> dict[str, Any]:
        """Append an answer."""
        return self.event("assistant", message=self._reply({"type": "text", "text": text}))

    def call(self, name: str, arguments: dict[str, Any], *, call: str) -> dict[str, Any]:
        """Append a call of a tool."""
        block = {"type": "tool_use", "id": call, "name": name, "input": arguments}
        return self.event("assistant", message=self._reply(block))

    def result(self, text: str, *, call: str, structured: Any = None, **fields: Any) -> dict[str, Any]:
        """Append a tool's result."""
        block = {"tool_use_id": call, "type": "tool_result", "content": text, **fields}
        extra = {} if structured is None else {"toolUseResult": structured}
        return self.event("user", message={"role": "user", "content": [block]}, **extra)

    def conversation(self) -> None:
        """Append a small conversation with a tool, a title, and lines that no release of ours knows."""
        self.line(type="queue-operation", operation="enqueue", content="Where is the fault?")
        self.prompt("Where is the fault?\nPlease look.")
        self.line(
            type="file-history-snapshot", messageId="m", snapshot={"trackedFileBackups": {}}, isSnapshotUpdate=False
        )
        self.call("Bash", {"command": "make test"}, call="toolu_1")
        self.result("1 failed", call="toolu_1", structured={"stdout": "1 failed", "stderr": "", "interrupted": False})
        self.line(type="kind-of-the-future", payload={"deep": [1, 2, {"x": None}]})
        self.say("The fault is in the parser; Grüße.")
        self.line(type="ai-title", aiTitle="Find the fault")

    def _reply(self, block: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": f"msg_{self.lines}", "type": "message", "role": "assistant", "model": "claude-opus-5-5",
            "content": [block], "stop_reason": None, "usage": {"input_tokens": 10, "service_tier": "standard"},
        }  # fmt: skip
