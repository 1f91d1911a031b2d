"""What the lines of a transcript say of their session: what it is called, and where it was held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agentlayers.runtime.message import AgentMessage
from agentlayers.storage.session_facts import SessionFact

__all__ = ["first_prompt", "transcript_facts"]

_TITLES: Final[Mapping[str, tuple[str, bytes]]] = {
    "custom-title": ("customTitle", b"\x03"),
    "ai-title": ("aiTitle", b"\x02"),
    "summary": ("summary", b"\x01"),
}
"""Lines that name a session; what a person chose stands above what was made up, and that above the first prompt."""

_PROMPT: Final = b"\x00"
_TITLE_CHARACTERS_MAX: Final = 200


def transcript_facts(record: Mapping[str, Any], entry_id: bytes) -> dict[str, SessionFact]:
    """
    Return what one line says of its session.

    Args:
        record: The line.
        entry_id: Of its entry; of titles and branches the last one stands, of directories and prompts the first.
    """
    first = bytes(255 - byte for byte in entry_id)
    facts = {}
    title = _title(record, entry_id) or _fact(first_prompt(record), _PROMPT + first)
    if title is not None:
        facts["title"] = title
    for name, field, place in (("project", "cwd", first), ("branch", "gitBranch", entry_id)):
        fact = _fact(record.get(field), place)
        if fact is not None:
            facts[name] = fact
    return facts


def first_prompt(record: Mapping[str, Any]) -> str:
    r"""
    Return what a message asks on one line; empty if it is none of a person.

    >>> first_prompt({"type": "user", "message": {"role": "user", "content": "Where is\nthe fault?"}})
    'Where is the fault?'

    """
    message = AgentMessage(record)
    is_aside = any(record.get(mark) for mark in ("isMeta", "isCompactSummary", "isSidechain"))
    if message.type != "user" or is_aside or message.parent_tool_use_id or message.tool_results:
        return ""
    text = " ".join(message.text.split())
    # What begins with a mark was put there by a command, not typed.
    return "" if text.startswith(("<", "[Request interrupted", "Caveat: ")) else text


def _title(record: Mapping[str, Any], entry_id: bytes) -> SessionFact | None:
    kind = record.get("type")
    if not isinstance(kind, str) or kind not in _TITLES:
        return None
    field, rank = _TITLES[kind]
    return _fact(record.get(field), rank + entry_id)


def _fact(text: object, place: bytes) -> SessionFact | None:
    if not isinstance(text, str) or not text.strip():
        return None
    line = " ".join(text.split())
    if len(line) > _TITLE_CHARACTERS_MAX:
        line = line[: _TITLE_CHARACTERS_MAX - 1].rstrip() + "…"
    return SessionFact(line, place)
