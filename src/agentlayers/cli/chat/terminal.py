"""Show messages in a terminal, or as plain text elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from agentlayers.cli.message_view import MessageView, message_view
from agentlayers.cli.part_printer import PartPrinter
from agentlayers.cli.table import format_millis, one_line

if TYPE_CHECKING:
    from agentlayers.storage.chat_event import ChatEvent

__all__ = ["MessagePrinter"]

_COLOURS: Final = {"user": "bold cyan", "assistant": "bold green", "tool": "yellow"}


class MessagePrinter:
    """
    Prints messages one after the other.

    Args:
        is_full: Print calls of tools, results and asides whole.
    """

    def __init__(self, *, is_full: bool) -> None:
        from rich.console import Console

        self._printer = PartPrinter(Console(), is_full=is_full)
        self._speaker = ""

    def heading(self, lines: list[str]) -> None:
        """Print what the session is."""
        for number, line in enumerate(lines):
            self._printer.line(line, "bold" if number == 0 else "dim")

    def message(self, event: ChatEvent) -> None:
        """Print one message; one of the same speaker goes on without a heading."""
        if event.message.get("type") == "stream_event":
            return  # a piece of a message that comes whole
        view = message_view(event.message, source=event.source)
        speaker = f"{view.role} (subagent)" if view.is_subagent else view.role
        # What a tool gave back stands below its call, and an aside is a line of its own; neither takes the word.
        is_aside = view.role == "tool" or all(part.kind == "note" for part in view.parts)
        if speaker != self._speaker and not is_aside:
            self._printer.line(f"\n{one_line(speaker)}  {format_millis(event.timestamp_ms)[:19]}Z", _colour(view))
            self._speaker = speaker
        for part in view.parts:
            self._printer.part(part)
        sys.stdout.flush()


def _colour(view: MessageView) -> str:
    return _COLOURS.get(view.role, "bold")
