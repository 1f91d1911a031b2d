"""A running conversation on a terminal: what the agent says, which tools it calls, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentlayers.cli.message_view import message_view
from agentlayers.cli.part_printer import PartPrinter
from agentlayers.cli.table import printable

if TYPE_CHECKING:
    from rich.console import Console

    from agentlayers.cli.message_view import Part
    from agentlayers.runtime.message import AgentMessage

__all__ = ["Conversation"]

_INDENT: Final = "  "
_OF_USER: Final = ("result", "error")
"""What a user message has to tell: the prompt is known to whoever wrote it."""


class Conversation:
    """
    Prints messages as they come, as ``chat show`` does with recorded ones; what subagents do is indented.

    Args:
        console: Where to; colours are left out where it is no terminal.
        is_full: Print inputs and results of tools whole.
    """

    def __init__(self, console: Console, *, is_full: bool = False) -> None:
        self._printer = PartPrinter(console, is_full=is_full)
        self._last_said = ""

    def show(self, message: AgentMessage) -> None:
        """Print one message; what is of no interest to a reader is passed over."""
        indent = _INDENT if message.parent_tool_use_id else ""
        if message.type in ("user", "assistant"):
            for part in message_view(message.raw).parts:
                if message.type == "assistant" or part.kind in _OF_USER:
                    self._part(part, indent)
        elif message.is_result and message.is_error:
            # An interrupted turn repeats what was said last.
            said = "" if message.text == self._last_said else message.text
            text = said or message.subtype.replace("_", " ") or "the agent failed"
            self._printer.line(f"! {printable(text)}", "red", indent=indent)

    def _part(self, part: Part, indent: str) -> None:
        if part.kind == "text":
            self._last_said = part.text
        self._printer.part(part, indent=indent)
