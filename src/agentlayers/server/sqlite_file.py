"""
The SQLite file of a server.

A statement's every row step gives up the interpreter lock, and a busy event loop hands it back only every
few milliseconds; so everything in :mod:`agentlayers.server.sqlite_writer` moves many rows in one step.
"""

from __future__ import annotations

from typing import Final

from agentlayers.sqlite_file import SQLiteFormat

__all__ = ["FILE_NAME", "POSITION_BITS", "SERVER_FORMAT"]

FILE_NAME: Final = "server.sqlite"

POSITION_BITS: Final = 40
"""``position = journal << 40 | sequence``: one integer key keeps a journal's entries together and in order."""

_VERSION_1: Final = (
    """
    CREATE TABLE tenants (
        name TEXT PRIMARY KEY,
        remote_id BLOB NOT NULL,
        incarnation BLOB NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE journals (
        journal INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL,
        public_key TEXT NOT NULL,
        UNIQUE (tenant, public_key)
    )
    """,
    """
    CREATE TABLE entries (
        position INTEGER PRIMARY KEY,
        journal INTEGER NOT NULL,
        entry_id BLOB NOT NULL,
        iv BLOB NOT NULL,
        ciphertext BLOB NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX entries_by_id ON entries (journal, entry_id)",
)

# Of the entry ids up to this one. Absent in rows of version 1 until agentlayers.server.sqlite_digest has
# computed it; within a journal the rows that have it come before those that do not.
_VERSION_2: Final = ("ALTER TABLE entries ADD COLUMN digest BLOB",)

SERVER_FORMAT: Final = SQLiteFormat(
    what="server storage",
    backend="sqlite server storage",
    application_id=0x61_6C_53_31,  # "alS1"
    migrations=(_VERSION_1, _VERSION_2),
    ends=(
        "SELECT max(position) FROM entries",
        "SELECT entry_id FROM entries ORDER BY journal DESC, entry_id DESC LIMIT 1",
        "SELECT max(name) FROM tenants",
    ),
    instead="give the server a directory of its own",
    checkpoint_pages=4000,
)
"""The file of a server's storage."""
