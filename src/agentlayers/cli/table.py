"""
Rows of text: a table on a terminal, aligned plain lines elsewhere.

What a peer wrote may hold anything, so control characters are shown, never sent to the terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, NamedTuple

__all__ = ["Column", "format_bytes", "format_millis", "one_line", "printable", "show_fields", "show_json", "show_table"]

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_TABLE_ROWS: Final = 500
_KIB: Final = 1024


class Column(NamedTuple):
    """
    One column.

    Attributes:
        name: Its heading.
        width: What its cells need as a rule; longer ones are shown whole.
        is_number: Aligned to the right.
        is_whole: Never broken over several lines on a terminal.
    """

    name: str
    width: int = 0
    is_number: bool = False
    is_whole: bool = False


def show_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> int:
    """Print rows as they come, and return how many there were."""
    if sys.stdout.isatty():
        return _show_rich(columns, rows)
    widths = [max(column.width, len(column.name)) for column in columns]
    count = 0
    for count, row in enumerate(rows, 1):
        if count == 1:
            _print_plain(columns, widths, [column.name for column in columns])
        _print_plain(columns, widths, [one_line(cell) for cell in row])
    return count


def _print_plain(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str]) -> None:
    padded = [
        cell.rjust(width) if column.is_number else cell.ljust(width)
        for column, width, cell in zip(columns, widths, cells, strict=True)
    ]
    sys.stdout.write("  ".join(padded).rstrip() + "\n")


def _show_rich(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, remaining, count = Console(), iter(rows), 0
    while page := list(islice(remaining, _TABLE_ROWS)):
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for column in columns:
            justify = "right" if column.is_number else "left"
            table.add_column(column.name, justify=justify, no_wrap=column.is_whole or column.is_number, overflow="fold")  # type: ignore[arg-type]
        for row in page:
            table.add_row(*(Text(one_line(cell)) for cell in row))
        console.print(table)
        count += len(page)
    return count


def show_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair on a line."""
    pairs = [(name, printable(value)) for name, value in fields]
    width = max((len(name) for name, _value in pairs), default=0)
    for name, value in pairs:
        sys.stdout.write(f"{name.ljust(width)}  {value}".rstrip() + "\n")


def show_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value as JSON: on one line, or over several with ``indent``."""
    separators = None if indent else (",", ":")
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=indent, separators=separators) + "\n")


def printable(text: str) -> str:
    """Show control characters as their codes; line ends and tabs stay."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text.encode("utf-8", "replace").decode())


def one_line(text: str) -> str:
    """Show a text on one line."""
    return printable(" ".join(text.split("\n")).replace("\t", " "))


def format_bytes(size: float) -> str:
    """Return a size as people read it, such as ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if size < _KIB:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _KIB
    return f"{size:.1f} GiB"


def format_millis(millis: int) -> str:
    """Return an instant in UTC, to the millisecond."""
    try:
        return (
            datetime.fromtimestamp(millis / 1000, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
        )
    except (ValueError, OverflowError, OSError):
        return f"{millis} ms"
