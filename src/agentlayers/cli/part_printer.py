"""The look of a message's parts on a terminal: what was said whole, the rest folded to a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentlayers.cli.table import one_line, printable

if TYPE_CHECKING:
    from rich.console import Console

    from agentlayers.cli.message_view import Part

__all__ = ["PartPrinter"]

_BRIEF_CHARACTERS_MAX: Final = 160
_MARKS: Final = {"call": "▸", "result": "  ⎿", "error": "  ✗", "thinking": "∴", "note": "·", "image": "▣"}


class PartPrinter:
    """
    Prints parts one after the other.

    What an agent or a tool wrote may hold anything, so control characters are shown and markup is not obeyed.

    Args:
        console: Where to; colours are left out where it is no terminal.
        is_full: Print calls of tools, results and asides whole.
    """

    def __init__(self, console: Console, *, is_full: bool) -> None:
        self._console = console
        self._is_full = is_full

    def part(self, part: Part, *, indent: str = "") -> None:
        """Print one part."""
        if part.kind == "text":
            self.line(printable(part.text), indent=indent)
            return
        name = f"{one_line(part.name)}: " if part.name else ""
        what = f"{_MARKS[part.kind]} {name}{self._brief(part)}".rstrip().removesuffix(":")
        self.line(what, "red" if part.kind == "error" else "dim", indent=indent)
        if self._is_full and part.text != part.brief:
            self.line(printable(part.text), "dim", indent=f"{indent}    ")

    def line(self, text: str, style: str = "", *, indent: str = "") -> None:
        """Print a text as it is, each of its lines indented."""
        text = "\n".join(indent + line for line in text.split("\n")) if indent else text
        self._console.print(text, style=style or None, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _brief(self, part: Part) -> str:
        brief = one_line(part.brief)
        if len(brief) > _BRIEF_CHARACTERS_MAX:
            brief = brief[: _BRIEF_CHARACTERS_MAX - 1] + "…"
        if part.kind not in ("result", "error"):
            return brief
        lines = 0 if self._is_full else part.text.strip().count("\n")
        more = f"  (+{lines} line{'s' if lines > 1 else ''})" if lines else ""
        return (brief or "(nothing)") + more
