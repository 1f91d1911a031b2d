"""A conversation on a terminal: what was said in full, tool calls and their results folded to a line each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from agentlayers.cli.table import printable

if TYPE_CHECKING:
    from rich.console import Console

    from agentlayers.runtime.message import AgentMessage

__all__ = ["Conversation"]

_FOLDED_CHARACTERS: Final = 100
_INDENT: Final = "  "


class Conversation:
    """
    Prints messages as they come.

    What an agent or a tool wrote may hold anything, so control characters are shown and markup is not obeyed.

    Args:
        console: Where to; colours are left out where it is no terminal.
        whole: Print inputs and results of tools in full.
    """

    def __init__(self, console: Console, *, whole: bool = False) -> None:
        self._console = console
        self._whole = whole
        self._tools: dict[str, str] = {}
        self._last_said = ""

    def show(self, message: AgentMessage) -> None:
        """Print one message; what is of no interest to a reader is passed over."""
        depth = 1 if message.parent_tool_use_id else 0
        if message.type == "user":
            for result in message.tool_results:
                self._result(result.tool_use_id, result.text, is_error=result.is_error, depth=depth)
        elif message.type == "assistant":
            for block in message.blocks:
                self._block(block, depth)
        elif message.is_result and message.is_error:
            # An interrupted turn repeats what was said last.
            said = "" if message.text == self._last_said else message.text
            self._line("! ", said or message.subtype.replace("_", " ") or "the agent failed", "red", depth)

    def _block(self, block: Mapping[str, Any], depth: int) -> None:
        kind = block.get("type")
        if kind == "text":
            self._last_said = str(block.get("text", ""))
            self._line("", self._last_said, "", depth)
        elif kind == "thinking":
            self._line("~ ", self._folded(str(block.get("thinking", ""))), "dim italic", depth)
        elif kind == "tool_use":
            name, arguments = str(block.get("name", "")), block.get("input")
            self._tools[str(block.get("id", ""))] = name
            self._line("* ", f"{name} {self._folded(shown_input(arguments))}".rstrip(), "cyan", depth)

    def _result(self, tool_use_id: str, text: str, *, is_error: bool, depth: int) -> None:
        name = self._tools.pop(tool_use_id, "")
        mark = f"{name} failed: " if is_error and name else ""
        shown = self._folded(text) or "(nothing)"
        self._line("  = ", mark + shown, "red" if is_error else "dim", depth)

    def _folded(self, text: str) -> str:
        return text if self._whole else folded(text)

    def _line(self, mark: str, text: str, style: str, depth: int) -> None:
        indent = _INDENT * depth
        body = printable(text).replace("\n", "\n" + indent + " " * len(mark))
        self._console.print(indent + mark + body, style=style, markup=False, highlight=False, soft_wrap=True)


def folded(text: str, characters: int = _FOLDED_CHARACTERS) -> str:
    r"""
    Shorten a text to one line, and say how much was left out.

    >>> folded("one\ntwo")
    'one (+ 1 line)'

    """
    first, _, rest = text.strip().partition("\n")
    more = ""
    if rest:
        lines = rest.count("\n") + 1
        more = f" (+ {lines} line{'s' if lines != 1 else ''})"
    if len(first) > characters:
        first = first[: characters - 1] + "…"
    return first + more


def shown_input(arguments: Any) -> str:
    """
    Write a tool's arguments as ``name=value``.

    >>> shown_input({"path": "a.txt", "depth": 2})
    'path=a.txt depth=2'

    """
    if not isinstance(arguments, Mapping):
        return "" if arguments is None else json.dumps(arguments, ensure_ascii=False, default=str)
    parts = []
    for name, value in arguments.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        parts.append(f"{name}={text}")
    return " ".join(parts)
