"""
Keep the results of tool calls as artifacts, with the tool call they belong to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from agentlayers.runtime.background_writer import BackgroundWriter
from agentlayers.runtime.frames import new_uuid
from agentlayers.runtime.message import AgentMessage, ToolResult
from agentlayers.runtime.tap import MessageTap, QueryEnd, Receipt
from agentlayers.storage.artifact import ArtifactRecord

if TYPE_CHECKING:
    from agentlayers.storage.artifacts import ArtifactStore

__all__ = ["ToolArtifacts", "artifact_of"]


@final
class ToolArtifacts(MessageTap):
    """
    Watches one query and puts each tool result into an artifact store.

    An artifact's id is that of its tool call, so that recording a conversation again does not double it.
    Putting goes on in the background: no message waits for it, and closing the query waits for all.

    Args:
        store: Where the artifacts are kept.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._names: dict[str, str] = {}
        self._session_id = ""
        self._writer: BackgroundWriter[ArtifactRecord] = BackgroundWriter(self._write, name="tool-artifacts")

    @property
    def pending(self) -> int:
        """Artifacts not durable yet."""
        return self._writer.pending

    @property
    def lost(self) -> int:
        """Artifacts given up."""
        return self._writer.lost

    @property
    def error(self) -> Exception | None:
        """Why an artifact cannot be kept at the moment, or was lost."""
        return self._writer.lost_error or self._writer.error

    async def received(self, message: AgentMessage) -> Receipt | None:
        """Note tool calls, and keep their results."""
        self._session_id = message.session_id or self._session_id
        for use in message.tool_uses:
            self._names[use.id] = use.name
        for result in message.tool_results:
            if self._session_id:
                name = self._names.pop(result.tool_use_id, None)
                await self._writer.put(artifact_of(result, session_id=self._session_id, tool_name=name))
        return None

    async def ended(self, end: QueryEnd) -> None:  # noqa: ARG002
        """Wait until all of them are durable."""
        await self._writer.aclose()

    async def _write(self, batch: Sequence[ArtifactRecord]) -> int:
        await self._store.put(batch[0])
        return 1


def artifact_of(
    result: ToolResult, *, session_id: str, tool_name: str | None, created_at_ms: int | None = None
) -> ArtifactRecord:
    """
    Turn a tool result into an artifact: the tool's own result if the message carries it, else what was told.

    It is dated when it is put, unless ``created_at_ms`` says when it was made.

    >>> result = ToolResult("toolu_1", "told", False, {"stdout": "4"})
    >>> record = artifact_of(result, session_id="s", tool_name="run_command")
    >>> record.id, record.tool_use_id, record.content_type, record.content
    ('toolu_1', 'toolu_1', 'application/json', '{"stdout": "4"}')

    """
    value = result.content if result.structured is None else result.structured
    content, content_type = _encoded(value)
    return ArtifactRecord(
        id=result.tool_use_id or new_uuid(),
        session_id=session_id,
        kind="tool_result",
        content=content,
        content_type=content_type,
        tool_name=tool_name,
        tool_use_id=result.tool_use_id or None,
        created_at_ms=created_at_ms,
        metadata={"isError": True} if result.is_error else None,
    )


def _encoded(value: Any) -> tuple[str, str]:
    if value is None:
        return "", "text/plain"
    if isinstance(value, str):
        return value, "text/plain"
    try:
        return json.dumps(value, ensure_ascii=False), "application/json"
    except (TypeError, ValueError):
        return str(value), "text/plain"
