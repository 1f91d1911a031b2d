"""A journal file of the release before relaying: read as it is, and relayed from once it is opened."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from agentlayers.journal.entry import RemoteEntry
from agentlayers.journal.event_journal import RelayMode, RemoteState
from agentlayers.journal.sqlite import JOURNAL_FILE, SQLiteJournal
from agentlayers.journal.sqlite.schema import JOURNAL_FORMAT
from agentlayers.storage.snapshot import open_snapshot
from agentlayers.testing.contracts.event_journal_world import OTHER_REMOTE, REMOTE, entry_at, notes

VERSION = 3


def write_file(path: Path) -> None:
    """Make a file as the release before did: an own entry, one of a remote, and one that the remote lacks."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        for pragma in ("journal_mode=WAL", "application_id=0x41474C4A", f"user_version={VERSION}"):
            connection.execute(f"PRAGMA {pragma}")
        for number in range(VERSION):
            for statement in JOURNAL_FORMAT.migrations[number]:
                connection.execute(statement)
            connection.execute("INSERT INTO migration VALUES (?, 0)", (number + 1,))
        connection.execute("INSERT INTO setting VALUES ('replica_id', ?)", (b"0123456789abcdef",))
        connection.execute("INSERT INTO store VALUES (1, 'notes')")
        connection.execute("INSERT INTO remote VALUES (1, 1, ?, 'ws://one', 7, x'01', 1, 0)", (REMOTE,))
        for position, origin in ((1, 0), (2, 1), (3, 0)):
            entry = entry_at(position)
            row = (position, 1, *entry, origin == 0, origin, 0, 1)
            connection.execute("INSERT INTO entry VALUES (?,?,?,?,?,?,?,?,?,?)", row)


async def test_a_file_of_the_release_before_is_read_without_changing_it(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_FILE
    write_file(path)

    with open_snapshot(path) as snapshot:
        (remote,) = snapshot.tx.remotes("notes")
        version = snapshot.schema_version

    assert (remote.state, remote.relays) == (RemoteState(7, b"\x01", 1), False)
    assert version == VERSION


async def test_what_an_older_release_received_is_relayed(tmp_path: Path) -> None:
    """The remote it came from is not sent it; a new one is sent everything."""
    write_file(tmp_path / JOURNAL_FILE)
    async with SQLiteJournal(tmp_path) as journal:
        await journal.register(notes())
        before = await journal.remote_state("notes", REMOTE)
        for remote_id in (OTHER_REMOTE, REMOTE):
            await journal.transact(
                lambda tx: tx.remember_remote("notes", remote_id, relay=RelayMode.WHEN_SEVERAL)  # noqa: B023
            )
        pending = [
            [item.position for item in await journal.uncommitted("notes", one, entries_max=9, bytes_max=1 << 20)]
            for one in (REMOTE, OTHER_REMOTE)
        ]
        await journal.write_from_remote("notes", OTHER_REMOTE, [RemoteEntry(0, entry_at(9))])
        state = await journal.remote_state("notes", REMOTE)

    assert before == RemoteState(7, b"\x01", 1)
    assert pending == [[3], [1, 2, 3]]
    assert (state.pending, state.relayed) == (2, 1)
