"""
The tables of a journal file, and how older files get there.

The version is SQLite's ``user_version``; the table ``migration`` tells when each version was reached. A change
of the tables is a new entry in :data:`JOURNAL_FORMAT`; entries are never edited after a release.
"""

from __future__ import annotations

from typing import Final

from agentlayers.sqlite_file import SQLiteFormat

__all__ = ["JOURNAL_FORMAT", "SCHEMA_VERSION"]

_APPLICATION_ID: Final = 0x41474C4A  # "AGLJ"

_VERSION_1: Final = (
    """
    CREATE TABLE migration (version INTEGER PRIMARY KEY, applied_at_ms INTEGER NOT NULL)
    """,
    """
    CREATE TABLE setting (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID
    """,
    """
    CREATE TABLE store (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)
    """,
    """
    CREATE TABLE entry (
        position INTEGER PRIMARY KEY,
        store INTEGER NOT NULL,
        id BLOB NOT NULL,
        event TEXT NOT NULL,
        primary_key TEXT NOT NULL,
        payload BLOB NOT NULL,
        outbound INTEGER NOT NULL, -- written here and to be synced
        origin INTEGER NOT NULL,   -- 0: written here, else remote.number
        keyed INTEGER NOT NULL,
        applied INTEGER NOT NULL
    )
    """,
    # By id, not by (store, id): also answers "highest id held". One id may be in two stores.
    "CREATE UNIQUE INDEX entry_id ON entry (id, store)",
    # Every entry is in one of these two. What can be pending is alone: small on a replica that mostly receives.
    "CREATE INDEX entry_outbound ON entry (store, position) WHERE outbound",
    "CREATE INDEX entry_other ON entry (store, position) WHERE NOT outbound",
    "CREATE INDEX entry_version ON entry (store, primary_key, id) WHERE keyed",
    """
    CREATE TABLE key_state (
        store INTEGER NOT NULL,
        primary_key TEXT NOT NULL,
        head_count INTEGER NOT NULL,
        state BLOB NOT NULL,
        PRIMARY KEY (store, primary_key)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX key_state_conflict ON key_state (store, primary_key) WHERE head_count > 1",
    "CREATE TABLE value (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    """
    CREATE TABLE remote (
        number INTEGER PRIMARY KEY,
        store INTEGER NOT NULL,
        remote_id BLOB NOT NULL,
        url TEXT,
        next_sequence INTEGER NOT NULL,
        incarnation BLOB NOT NULL,
        watermark INTEGER NOT NULL,
        is_retired INTEGER NOT NULL,
        UNIQUE (store, remote_id)
    )
    """,
    # Acknowledged out of turn: positions above the watermark.
    """
    CREATE TABLE remote_has (
        remote INTEGER NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (remote, position)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE unapplied (
        position INTEGER PRIMARY KEY,
        store INTEGER NOT NULL,
        error TEXT NOT NULL,
        attempts INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE quarantine (
        store INTEGER NOT NULL,
        id BLOB NOT NULL,
        remote INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        event TEXT NOT NULL,
        primary_key TEXT NOT NULL,
        data BLOB NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (store, id)
    )
    """,
    # Ids of compacted entries, so that they do not come back.
    """
    CREATE TABLE horizon (
        store INTEGER NOT NULL,
        id BLOB NOT NULL,
        day INTEGER NOT NULL,
        PRIMARY KEY (store, id)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX horizon_day ON horizon (store, day)",
)

_VERSION_2: Final = (
    # Texts that entries are found by; the row id is the entry's position. Words are compared as in
    # agentlayers.journal.text_search.
    """
    CREATE VIRTUAL TABLE text_index USING fts5(
        text, store UNINDEXED, scope UNINDEXED, tokenize = "unicode61 remove_diacritics 2"
    )
    """,
    # What was written before has no text yet: stores bring it up at the first search.
    """
    INSERT INTO setting
    SELECT 'text_backlog', CAST(CAST(max(position) AS TEXT) AS BLOB) FROM entry HAVING max(position) > 0
    """,
)

_VERSION_3: Final = (
    # The newest texts wait here until they are worth a segment of the index: a single append costs a row, not that.
    """
    CREATE TABLE text_waiting (
        position INTEGER PRIMARY KEY, text TEXT NOT NULL, store INTEGER NOT NULL, scope TEXT NOT NULL
    )
    """,
    # Every batch adds a segment; merging them less often costs appends less, and a search reads few more.
    "INSERT INTO text_index (text_index, rank) VALUES ('automerge', 16)",
    "INSERT INTO text_index (text_index, rank) VALUES ('crisismerge', 64)",
)

_VERSION_4: Final = (
    # What came from one remote may be sent to the others: where it came from is found without looking at the entry,
    # whose payload may be large and lies before it.
    "DROP INDEX entry_other",
    "CREATE INDEX entry_other ON entry (store, position, origin) WHERE NOT outbound",
    "ALTER TABLE remote ADD COLUMN relay INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE remote ADD COLUMN relay_watermark INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE remote ADD COLUMN lost_up_to INTEGER NOT NULL DEFAULT 0",
    # As remote_has, of received entries: above the relay_watermark.
    """
    CREATE TABLE remote_has_received (
        remote INTEGER NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (remote, position)
    ) WITHOUT ROWID
    """,
)

_VERSION_5: Final = (
    # See agentlayers.journal.sqlite.entry_row. Absent in rows that are older.
    "ALTER TABLE entry ADD COLUMN checksum INTEGER",
)

JOURNAL_FORMAT: Final = SQLiteFormat(
    what="journal",
    backend="sqlite",
    application_id=_APPLICATION_ID,
    migrations=(_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5),
    ends=(
        "SELECT min(position) + max(position) FROM entry",
        "SELECT max(id) FROM entry",
        "SELECT key FROM value ORDER BY key DESC LIMIT 1",
        "SELECT name FROM setting ORDER BY name DESC LIMIT 1",
        "SELECT payload FROM entry WHERE position = (SELECT max(position) FROM entry)",
    ),
    instead="give the directory of a replica",
    notes_migrations=True,
    incremental_vacuum=True,
    checkpoint_pages=2000,
    cache_kib=8192,
)
"""The file of a journal."""

SCHEMA_VERSION: Final = JOURNAL_FORMAT.schema_version
"""Version of the files this release writes."""
