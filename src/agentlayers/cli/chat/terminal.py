"""Show messages in a terminal, or as plain text elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from agentlayers.cli.chat.message_view import MessageView, Part, message_view
from agentlayers.cli.table import format_millis, one_line, printable

if TYPE_CHECKING:
    from agentlayers.storage.chat_event import ChatEvent

__all__ = ["MessagePrinter"]

_COLOURS: Final = {"user": "bold cyan", "assistant": "bold green", "tool": "yellow"}
_BRIEF_CHARACTERS_MAX: Final = 160
_MARKS: Final = {"call": "▸", "result": "  ⎿", "error": "  ✗", "thinking": "∴", "note": "·", "image": "▣"}


class MessagePrinter:
    """
    Prints messages one after the other.

    Args:
        is_full: Print calls of tools, results and asides whole.
    """

    def __init__(self, *, is_full: bool) -> None:
        from rich.console import Console

        self._is_full = is_full
        self._console = Console(soft_wrap=True, highlight=False)
        self._speaker = ""

    def heading(self, lines: list[str]) -> None:
        """Print what the session is."""
        for number, line in enumerate(lines):
            self._print(line, "bold" if number == 0 else "dim")

    def message(self, event: ChatEvent) -> None:
        """Print one message; one of the same speaker goes on without a heading."""
        if event.message.get("type") == "stream_event":
            return  # a piece of a message that comes whole
        view = message_view(event)
        speaker = f"{view.role} (subagent)" if view.is_subagent else view.role
        # What a tool gave back stands below its call, and an aside is a line of its own; neither takes the word.
        is_aside = view.role == "tool" or all(part.kind == "note" for part in view.parts)
        if speaker != self._speaker and not is_aside:
            self._print(f"\n{one_line(speaker)}  {format_millis(event.timestamp_ms)[:19]}Z", _colour(view))
            self._speaker = speaker
        for part in view.parts:
            self._part(part)
        sys.stdout.flush()

    def _part(self, part: Part) -> None:
        if part.kind == "text":
            self._print(printable(part.text), "")
            return
        brief = one_line(part.brief)
        if len(brief) > _BRIEF_CHARACTERS_MAX:
            brief = brief[: _BRIEF_CHARACTERS_MAX - 1] + "…"
        lines = part.text.count("\n")
        more = f"  (+{lines} lines)" if part.kind in ("result", "error") and lines and not self._is_full else ""
        name = f"{one_line(part.name)}: " if part.name else ""
        self._print(f"{_MARKS[part.kind]} {name}{brief}{more}".rstrip(), "red" if part.kind == "error" else "dim")
        if self._is_full and part.text != part.brief:
            self._print(printable("\n".join(f"    {line}" for line in part.text.split("\n"))), "dim")

    def _print(self, text: str, style: str) -> None:
        self._console.print(text, style=style or None, markup=False, emoji=False)


def _colour(view: MessageView) -> str:
    return _COLOURS.get(view.role, "bold")
