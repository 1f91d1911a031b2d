"""Many rows are read as one value, whatever bytes they hold, and whichever SQLite it is."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator

import pytest

from agentlayers import sqlite_file
from agentlayers.sqlite_file import bytes_joined, joined_bytes

ROWS = [(b"\x00\xff\x00", "ä\x00b", b""), (b"", "", bytes(5)), (os.urandom(300), "\x00", b"\xc3\x28,;")]


@pytest.fixture(params=[True, False], ids=["as bytes", "as text"])
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """A table with zero bytes and what is no UTF-8; once as if this SQLite cut what it joins at a zero byte."""
    if not request.param:
        monkeypatch.setattr(sqlite_file, "_joins_zero_bytes", lambda: False)
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (a BLOB NOT NULL, b TEXT NOT NULL, c BLOB NOT NULL)")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?)", ROWS)
        yield connection


def test_the_columns_of_all_rows_stand_one_behind_the_other(table: sqlite3.Connection) -> None:
    (found,) = table.execute(f"SELECT {joined_bytes('a', 'b', 'c')} FROM (SELECT * FROM t ORDER BY rowid)").fetchone()

    assert bytes_joined(found) == b"".join(a + b.encode() + c for a, b, c in ROWS)


def test_no_rows_are_no_bytes(table: sqlite3.Connection) -> None:
    (found,) = table.execute(f"SELECT {joined_bytes('a', 'b')} FROM t WHERE length(a) > 999").fetchone()

    assert bytes_joined(found) == b""
