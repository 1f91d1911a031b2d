"""
What there is to see of a message, running or recorded, whoever recorded it: who speaks, and what it consists of.

Known are the messages of claude-agent-sdk and those of the plain form ``{"role": ..., "content" or "text": ...}``.
Anything else is shown as the JSON it is, so that nothing is passed over in silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

__all__ = ["MessageView", "Part", "PartKind", "message_view"]

PartKind = Literal["text", "thinking", "call", "result", "error", "note", "image"]

_ROLES = {"user", "assistant", "system"}


class Part(NamedTuple):
    """
    A part of a message.

    Attributes:
        kind: What it is.
        text: What it says; of a call its arguments as JSON.
        name: Of the tool that is called.
        brief: What it says on one line; of a call what tells it from others.
    """

    kind: PartKind
    text: str
    name: str = ""
    brief: str = ""


@dataclass(frozen=True, slots=True)
class MessageView:
    """
    One message as it is shown.

    Attributes:
        role: ``user``, ``assistant``, ``system``, ``tool`` for results, or what the message names.
        is_subagent: It belongs to an agent that the session's agent started.
        parts: In order; never none.
    """

    role: str
    is_subagent: bool
    parts: tuple[Part, ...]


def message_view(message: Mapping[str, Any], *, source: str = "") -> MessageView:
    """
    Look at a message.

    Args:
        message: As it came from an agent, or was recorded.
        source: Who wrote it down; the role of a message that names none.
    """
    kind = message.get("type")
    inner = message.get("message")
    body = inner if isinstance(inner, Mapping) else message
    role = body.get("role") if kind not in _ROLES else kind
    parts = tuple(_parts(message, body))
    if not parts:
        parts = (Part("note", _json(message), brief=f"{kind or role or 'message'} without text"),)
    if all(part.kind in ("result", "error") for part in parts):
        role = "tool"
    is_subagent = bool(message.get("parent_tool_use_id") or message.get("isSidechain"))
    return MessageView(str(role or kind or source), is_subagent, parts)


def _parts(message: Mapping[str, Any], body: Mapping[str, Any]) -> Iterator[Part]:
    kind = message.get("type")
    if kind == "result":
        yield _ending(message)
        return
    content = body.get("content", body.get("text"))
    if kind == "system" or message.get("isMeta"):
        yield _note(message, content)
        return
    if isinstance(content, str):
        if content:
            yield Part("text", content)
    elif isinstance(content, list):
        for block in content:
            yield _block(block)
    elif kind not in ("user", "assistant"):
        yield Part("note", _json(message), brief=str(kind or "message"))


def _block(block: Any) -> Part:
    if isinstance(block, str):
        return Part("text", block)
    if not isinstance(block, Mapping):
        return Part("note", _json(block), brief="block")
    kind = block.get("type")
    if kind == "text" and isinstance(block.get("text"), str):
        return Part("text", block["text"])
    if kind == "thinking" and isinstance(block.get("thinking"), str):
        return Part("thinking", block["thinking"], brief=_first_line(block["thinking"]))
    if kind in ("tool_use", "server_tool_use"):
        arguments = block.get("input")
        return Part("call", _json(arguments), name=str(block.get("name", "?")), brief=_arguments(arguments))
    if kind == "tool_result":
        text = _result_text(block.get("content"))
        return Part("error" if block.get("is_error") is True else "result", text, brief=_first_line(text))
    if kind == "image":
        return Part("image", "", brief="image")
    return Part("note", _json(block), brief=str(kind or "block"))


def _note(message: Mapping[str, Any], content: Any) -> Part:
    names = [str(message[name]) for name in ("subtype", "cwd", "model") if isinstance(message.get(name), str)]
    text = content if isinstance(content, str) else _result_text(content)
    brief = " ".join(names) or _first_line(text) or "aside"
    return Part("note", text or _json(message), brief=brief)


def _ending(message: Mapping[str, Any]) -> Part:
    turns, seconds = message.get("num_turns"), message.get("duration_ms")
    facts = [str(message.get("subtype", "ended"))]
    facts += [f"{turns} turns"] if isinstance(turns, int) else []
    facts += [f"{seconds / 1000:.1f} s"] if isinstance(seconds, int | float) else []
    return Part("note", _json(message), brief=", ".join(facts))


def _result_text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_block(block).text or "[image]" for block in content)
    return _json(content)


def _arguments(arguments: Any) -> str:
    """Show what matters of a call: the text that tells what it is about, or all its arguments in short."""
    if isinstance(arguments, Mapping):
        for name in ("command", "file_path", "path", "pattern", "url", "query", "description", "prompt"):
            if isinstance(arguments.get(name), str):
                return _first_line(arguments[name])
        return " ".join(f"{name}={_argument(value)}" for name, value in arguments.items())
    return _argument(arguments) if arguments else ""


def _argument(value: Any) -> str:
    from agentlayers.storage.export import json_of

    return _first_line(value) if isinstance(value, str) else json.dumps(json_of(value), ensure_ascii=False)


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0]


def _json(value: Any) -> str:
    from agentlayers.storage.export import json_of

    return json.dumps(json_of(value), ensure_ascii=False, indent=2)
