"""A table that is drawn anew as things change, made for the width there is: whole words in fewer columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from agentlayers.cli.table import Column, one_line, printable

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["live_table", "short_time"]

_GAP: Final = 2
_ELASTIC_CHARACTERS_MIN: Final = 12


def live_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    width: int,
    title: str = "",
    left_out: Collection[str] = (),
    dispensable: Sequence[str] = (),
    elastic: Collection[str] = (),
) -> Table:
    """
    Lay rows out on so many characters.

    Args:
        columns: Their names and alignment.
        rows: A cell for each column.
        width: Characters of a line.
        title: Above it.
        left_out: Columns that are not shown.
        dispensable: Columns that are left out where there is no room, the first one first.
        elastic: Columns whose cells may be broken over several lines; the others stay whole.
    """
    from rich.table import Table
    from rich.text import Text

    cells = [[one_line(cell) for cell in row] for row in rows]
    shown = [index for index, column in enumerate(columns) if column.name not in left_out]
    kept = _kept(shown, columns, cells, width, dispensable, elastic)
    table = Table(title=Text(printable(title)), title_justify="left", box=None, pad_edge=False)
    table.padding = (0, _GAP, 0, 0)
    for index in kept:
        column = columns[index]
        justify = "right" if column.is_number else "left"
        table.add_column(column.name, justify=justify, no_wrap=column.name not in elastic, overflow="fold")  # type: ignore[arg-type]
    for row in cells:
        table.add_row(*(Text(row[index]) for index in kept))
    return table


def _kept(
    shown: list[int],
    columns: Sequence[Column],
    cells: Sequence[Sequence[str]],
    width: int,
    dispensable: Sequence[str],
    elastic: Collection[str],
) -> list[int]:
    """Return which columns there is room for."""
    needed = [max(len(column.name), *(len(row[index]) for row in cells), 0) for index, column in enumerate(columns)]
    for index, column in enumerate(columns):
        if column.name in elastic:
            needed[index] = min(needed[index], _ELASTIC_CHARACTERS_MIN)
    kept = shown
    for name in dispensable:
        if sum(needed[index] + _GAP for index in kept) - _GAP <= width:
            break
        kept = [index for index in kept if columns[index].name != name]
    return kept


def short_time(instant: datetime, now: datetime) -> str:
    """
    Return a time of day, or for another day the date with it, both where ``now`` is.

    >>> from datetime import UTC
    >>> now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    >>> short_time(datetime(2026, 11, 23, 9, 30, 15, tzinfo=UTC), now)
    '09:30:15'
    >>> short_time(datetime(2026, 11, 2, tzinfo=UTC), now)
    '2026-11-02 00:00'

    """
    local = instant.astimezone(now.tzinfo)
    return f"{local:%H:%M:%S}" if local.date() == now.date() else f"{local:%Y-%m-%d %H:%M}"
