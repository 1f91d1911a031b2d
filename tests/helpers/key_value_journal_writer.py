"""
Append to a journal in a key-value store until killed; each acknowledged id is written to standard output.

Run as a program: ``python key_value_journal_writer.py files|sqlite <directory>``.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.key_value import KeyValueJournal
from agentlayers.key_value import FileSystemKeyValueStore, KeyValueStore, SQLiteKeyValueStore

KEYED = StoreSchema(name="notes", keyed_events=frozenset({"saved"}), events=frozenset({"saved"}))


def store_of(medium: str, directory: Path) -> KeyValueStore:
    """Return the store that the writer uses."""
    return FileSystemKeyValueStore(directory) if medium == "files" else SQLiteKeyValueStore(directory)


async def main(medium: str, directory: Path) -> None:
    """Write, several at a time, for ever."""
    async with store_of(medium, directory) as store, KeyValueJournal(store) as journal:
        await journal.register(KEYED)
        print("open", flush=True)

        async def write(number: int) -> None:
            while True:
                entry = await journal.write("notes", "saved", f"key {number}", {"text": "x" * 100})
                print(entry.id.hex(), flush=True)

        await asyncio.gather(*(write(number) for number in range(4)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
