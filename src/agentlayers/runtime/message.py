"""
One message of an agent's stream, as a light view on the wire object.

The wire object of claude-agent-sdk's stream is kept whole, unknown keys included, so that what is
recorded can be read again by software that knows more than this release.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

__all__ = ["AgentMessage", "ToolResult", "ToolUse", "text_of", "user_message"]


@final
@dataclass(frozen=True, slots=True)
class ToolUse:
    """
    A tool call that the agent asks for.

    Attributes:
        id: Ties the call to its result, hooks and artifact.
        name: The tool.
        input: Its arguments.
    """

    id: str
    name: str
    input: Mapping[str, Any]


@final
@dataclass(frozen=True, slots=True)
class ToolResult:
    """
    What became of a tool call.

    Attributes:
        tool_use_id: The call.
        content: What the agent is told: text, or a list of content blocks.
        is_error: The call failed, was denied or was interrupted.
        structured: The tool's own result object (``tool_use_result``), if the message carries one.
    """

    tool_use_id: str
    content: Any
    is_error: bool
    structured: Any = None

    @property
    def text(self) -> str:
        """The result as text; blocks that hold no text are left out."""
        return text_of(self.content)


@final
@dataclass(frozen=True, slots=True)
class AgentMessage:
    """
    An immutable view on one wire object.

    Attributes:
        raw: The whole wire object. It is shared with the recorder: do not change it.
    """

    raw: Mapping[str, Any]

    @property
    def type(self) -> str:
        """``system``, ``assistant``, ``user``, ``result``, ``stream_event``, or a name newer than this release."""
        return _string(self.raw.get("type"))

    @property
    def subtype(self) -> str:
        """Refines :attr:`type`, such as ``init`` or ``error_max_turns``; empty if there is none."""
        return _string(self.raw.get("subtype"))

    @property
    def session_id(self) -> str:
        """The session; empty where the wire object names none."""
        return _string(self.raw.get("session_id"))

    @property
    def uuid(self) -> str:
        """Id of this message; empty where the wire object has none."""
        return _string(self.raw.get("uuid"))

    @property
    def parent_tool_use_id(self) -> str | None:
        """The tool call a subagent works for; :obj:`None` on the main thread."""
        value = self.raw.get("parent_tool_use_id")
        return value if isinstance(value, str) and value else None

    @property
    def is_init(self) -> bool:
        """This message opens a turn and says which session it belongs to."""
        return self.type == "system" and self.subtype == "init"

    @property
    def is_result(self) -> bool:
        """This message ends a turn."""
        return self.type == "result"

    @property
    def is_error(self) -> bool:
        """The turn ended in an error (a result message only)."""
        return self.raw.get("is_error") is True

    @property
    def text(self) -> str:
        """What is said: the text blocks of a user or assistant message, or the result's text."""
        if self.is_result:
            return _string(self.raw.get("result"))
        return text_of(self._content())

    @property
    def tool_uses(self) -> tuple[ToolUse, ...]:
        """The tool calls this message asks for."""
        return tuple(
            ToolUse(_string(block.get("id")), _string(block.get("name")), _mapping(block.get("input")))
            for block in self._blocks("tool_use")
        )

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        """The results of tool calls this message carries."""
        blocks = list(self._blocks("tool_result"))
        # The structured object stands beside the blocks and belongs to the only one there is.
        structured = self.raw.get("tool_use_result") if len(blocks) == 1 else None
        return tuple(
            ToolResult(
                _string(block.get("tool_use_id")),
                block.get("content"),
                block.get("is_error") is True,
                structured,
            )
            for block in blocks
        )

    @property
    def blocks(self) -> tuple[Mapping[str, Any], ...]:
        """The content blocks of a user or assistant message; a plain text is one block."""
        content = self._content()
        if isinstance(content, str):
            return ({"type": "text", "text": content},)
        if not isinstance(content, list | tuple):
            return ()
        return tuple(block for block in content if isinstance(block, Mapping))

    def _content(self) -> Any:
        return _mapping(self.raw.get("message")).get("content")

    def _blocks(self, kind: str) -> Iterator[Mapping[str, Any]]:
        return (block for block in self.blocks if block.get("type") == kind)


def text_of(content: Any) -> str:
    """
    Read the text out of a message's content; blocks are put on lines of their own.

    >>> text_of([{"type": "text", "text": "a"}, {"type": "image"}])
    'a'

    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return ""
    texts = [
        block["text"]
        for block in content
        if isinstance(block, Mapping) and block.get("type") == "text" and isinstance(block.get("text"), str)
    ]
    return "\n".join(texts)


def user_message(text: str, *, session_id: str = "", uuid: str | None = None) -> dict[str, Any]:
    """
    Build the wire object of a user's prompt.

    >>> user_message("hi")["message"]
    {'role': 'user', 'content': 'hi'}

    """
    message: dict[str, Any] = {
        "type": "user",
        "message": {"role": "user", "content": text},
        "parent_tool_use_id": None,
        "session_id": session_id,
    }
    if uuid is not None:
        message["uuid"] = uuid
    return message


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
