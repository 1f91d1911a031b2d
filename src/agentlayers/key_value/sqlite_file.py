"""The SQLite file of a key-value store."""

from __future__ import annotations

from typing import Final

from agentlayers.sqlite_file import SQLiteFormat

__all__ = ["FILE_NAME", "KEY_VALUE_FORMAT"]

FILE_NAME: Final = "key_value.sqlite"

# A table with row ids: values of any size stay out of the index that keeps the keys in order.
_VERSION_1: Final = (
    """
    CREATE TABLE pair (
        number INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        value BLOB NOT NULL,
        checksum INTEGER NOT NULL
    )
    """,
)

KEY_VALUE_FORMAT: Final = SQLiteFormat(
    what="key-value store",
    backend="sqlite key-value store",
    application_id=0x61_6C_4B_31,  # "alK1"
    migrations=(_VERSION_1,),
    ends=("SELECT max(number), (SELECT max(key) FROM pair) FROM pair",),
    instead="give the store a directory of its own",
    checkpoint_pages=2000,
)
"""The file of a key-value store."""
