"""
Digests for the rows of a file that an older release wrote: computed behind the server's back, in bounded steps.

New rows get theirs when they are written, but only behind rows that have one; so in each journal the rows with a
digest are a prefix, and where it ends is found by bisection.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from agentlayers.protocol.sequence_digest import EMPTY_DIGEST, extend_digest
from agentlayers.server.sqlite_file import POSITION_BITS

__all__ = ["digest_below", "fill_step", "unfilled_journals"]

ROWS_PER_STEP: Final = 2000
"""Rows one transaction gives their digest: a few milliseconds, so that no append waits long behind it."""

_SEQUENCE_MASK: Final = (1 << POSITION_BITS) - 1


def digest_below(connection: sqlite3.Connection, base: int, sequence: int) -> bytes | None:
    """Return the digest of a journal's entries below a sequence, if there are so many and it is known."""
    if sequence == 0:
        return EMPTY_DIGEST
    if not 0 < sequence <= _SEQUENCE_MASK:
        return None
    row = connection.execute("SELECT digest FROM entries WHERE position = ?", (base + sequence - 1,)).fetchone()
    return None if row is None else row[0]


def unfilled_journals(connection: sqlite3.Connection) -> list[int]:
    """List the journals whose last row has no digest."""
    query = (
        "SELECT group_concat(journal) FROM journals WHERE (SELECT digest FROM entries WHERE position BETWEEN "
        f"journals.journal << {POSITION_BITS} AND (journals.journal << {POSITION_BITS}) + {_SEQUENCE_MASK} "
        "ORDER BY position DESC LIMIT 1) IS NULL"
    )
    (text,) = connection.execute(query).fetchone()
    return [int(journal) for journal in text.split(",")] if text else []


def fill_step(connection: sqlite3.Connection, journal: int) -> bool:
    """
    Give the next rows of a journal their digest, in the caller's transaction.

    Returns:
        Whether there may be more to do.
    """
    base = journal << POSITION_BITS
    query = "SELECT max(position) FROM entries WHERE position BETWEEN ? AND ?"
    last: int | None = connection.execute(query, (base, base + _SEQUENCE_MASK)).fetchone()[0]
    if last is None:
        return False
    head = last - base + 1
    start = _first_unfilled(connection, base, head)
    digest = digest_below(connection, base, start)
    if start == head or digest is None:
        return False
    stop = min(start + ROWS_PER_STEP, head)
    (ids,) = connection.execute(
        "SELECT group_concat(hex(entry_id), '') FROM "
        "(SELECT entry_id FROM entries WHERE position >= ? AND position < ? ORDER BY position)",
        (base + start, base + stop),
    ).fetchone()
    data = bytes.fromhex(ids)
    entry_ids = [data[at : at + 16] for at in range(0, len(data), 16)]
    digests = extend_digest(digest, start, entry_ids)
    connection.executemany(
        "UPDATE entries SET digest = ? WHERE position = ?",
        [(one, base + sequence) for sequence, one in enumerate(digests, start)],
    )
    return stop < head


def _first_unfilled(connection: sqlite3.Connection, base: int, head: int) -> int:
    low, high = 0, head
    while low < high:
        middle = (low + high) // 2
        if digest_below(connection, base, middle + 1) is None:
            high = middle
        else:
            low = middle + 1
    return low
