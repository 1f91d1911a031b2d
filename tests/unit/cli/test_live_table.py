"""Live tables on lines of any width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from agentlayers.cli.live_table import live_table
from agentlayers.cli.table import Column

COLUMNS = (Column("store"), Column("pending", is_number=True), Column("server"), Column("verified"))
ROWS = (("chat_history", "1,234", "ws://127.0.0.1:8787/event-log", "12:00:00"), ("notes\x1b[2J", "0", "x", ""))


def drawn(width: int) -> str:
    """Draw the table on lines of a width."""
    console = Console(file=io.StringIO(), width=width)
    table = live_table(
        COLUMNS, ROWS, width=width, title="a replica\x1b[2J", dispensable=("verified", "server"), elastic=("server",)
    )
    console.print(table)
    shown = console.file
    assert isinstance(shown, io.StringIO)
    return shown.getvalue()


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (100, ["store", "pending", "server", "verified"]),
        (45, ["store", "pending", "server", "verified"]),
        (40, ["store", "pending", "server"]),
        (30, ["store", "pending"]),
    ],
)
def test_what_there_is_no_room_for_is_left_out_and_the_rest_stays_whole(width: int, columns: list[str]) -> None:
    lines = drawn(width).splitlines()

    assert lines[0].strip() == "a replica\\x1b[2J"
    assert lines[1].split() == columns
    assert all(len(line) <= width for line in lines)
    assert "chat_history" in lines[2]
    assert "1,234" in lines[2]


def test_an_elastic_cell_is_broken_and_not_cut() -> None:
    table = drawn(45)

    assert "…" not in table
    assert "".join(line[23:35].strip() for line in table.splitlines()[2:6]).startswith("ws://127.0.0.1:8787/event-log")


def test_control_characters_of_a_peer_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in drawn(100)


def test_a_column_may_be_left_out_anyway() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(live_table(COLUMNS, ROWS, width=100, left_out=("server",)))
    shown = console.file

    assert isinstance(shown, io.StringIO)
    assert "server" not in shown.getvalue()
