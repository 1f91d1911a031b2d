"""
The stores of a replica as they lie in its files, for tools that work on a directory instead of an application's graph.

A tool cannot know what an application declared: stores of its own are left alone unless they are named
(:class:`FurtherStore`), and which conflict policy decides what is shown has to be told where it is not the default.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from agentlayers.errors import SettingsError
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.conflict_policy import ConflictPolicy, FirstWriteWins, LastWriteWins, Reject
from agentlayers.journal.event_journal import EventJournal, StoreSchema
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.journal.sqlite.journal import JOURNAL_FILE
from agentlayers.key_value.sqlite_file import FILE_NAME as KEY_VALUE_FILE
from agentlayers.storage.artifact_chunk import CONTENT_STORE
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.journaled_store import JournaledStore
from agentlayers.storage.session_index import SessionIndexStore

__all__ = [
    "POLICIES",
    "STORE_NAMES",
    "FurtherStore",
    "file_of_store",
    "has_index",
    "is_for",
    "open_replica_stores",
    "own_file_name",
    "policy_named",
    "replica_schemas",
    "stores_of_file",
    "with_parts",
]

_STORES: Final[tuple[type[JournaledStore], ...]] = (ChatHistoryStore, ArtifactStore, AuditEventStore)
_PARTS: Final = {ArtifactStore.name: (CONTENT_STORE,)}
"""Stores that belong to another one, and are in the same file."""

STORE_NAMES: Final = tuple(name for store in _STORES for name in (store.name, *_PARTS.get(store.name, ())))
"""The stores a tool knows, in the order they are shown."""

_OWN_FILES: Final = tuple(store.name for store in _STORES)

_INDEX_FILE: Final = "session_index.sqlite"

_FILE_NAME_BYTES_MAX: Final = 255
"""What file systems allow."""

POLICIES: Final[dict[str, Callable[[], ConflictPolicy]]] = {
    "last_write_wins": LastWriteWins,
    "first_write_wins": FirstWriteWins,
    "reject": lambda: Reject("more than one version"),
}
"""Conflict policies a tool can be told by name; a merge function is known to its application only."""


class FurtherStore(NamedTuple):
    """
    A store that is not of this room, such as one that an application declares, as a tool has to know it.

    Attributes:
        name: The store.
        schema: Returns what a journal must know of it: called with the journal, the session index to keep up with it
            (:obj:`None` for a replay, which compares what depends on entries alone), and the conflict policy that was
            named (:obj:`None` if none was).
        kept_whole: Why compaction leaves it alone; empty if it does not.
    """

    name: str
    schema: Callable[[EventJournal, SessionIndexStore | None, ConflictPolicy | None], StoreSchema]
    kept_whole: str = ""


def policy_named(name: str) -> ConflictPolicy:
    """
    Return the conflict policy of that name.

    Raises:
        SettingsError: There is none.
    """
    if name not in POLICIES:
        raise SettingsError(setting="policy", value=name, expected=f"one of {', '.join(POLICIES)}")
    return POLICIES[name]()


def with_parts(store: str) -> tuple[str, ...]:
    """
    Return a store with those that belong to it.

    >>> with_parts("artifacts"), with_parts("audit_log")
    (('artifacts', 'artifact_content'), ('audit_log',))

    """
    return (store, *_PARTS.get(store, ()))


def stores_of_file(path: Path, further: Sequence[FurtherStore] = ()) -> tuple[str, ...]:
    """Return which stores a journal file is for: its own if it is named after one, else all that are known."""
    every = (*STORE_NAMES, *(store.name for store in further))
    return tuple(name for name in every if is_for(path, name, further))


def is_for(path: Path, store: str, further: Sequence[FurtherStore] = ()) -> bool:
    """Tell whether a journal file may hold a store: it is not that of another one."""
    is_own = path.stem in _OWN_FILES or any(path.stem == one.name for one in further)
    return not is_own or store in with_parts(path.stem)


def file_of_store(directory: Path, store: str) -> Path:
    """Return where a replica keeps a store: in a file of its own if there is one, else in the shared journal."""
    if directory.is_file():
        return directory
    name = own_file_name(store)
    return directory / name if name and (directory / name).is_file() else directory / JOURNAL_FILE


def own_file_name(store: str) -> str | None:
    """
    Return the name of the file a store has if it shares none; :obj:`None` for a store that can have none.

    What a store is called may come out of an export, so it must not lead anywhere else.

    >>> own_file_name("artifact_content"), own_file_name("../journal")
    ('artifacts.sqlite', None)

    """
    owner = next((name for name in _OWN_FILES if store in with_parts(name)), store)
    name = f"{owner}.sqlite"
    is_plain = not any(mark in name for mark in "/\\\0") and not name.startswith(".")
    is_short = len(name.encode()) <= _FILE_NAME_BYTES_MAX
    return name if is_plain and is_short and name not in (JOURNAL_FILE, KEY_VALUE_FILE, _INDEX_FILE) else None


def has_index(path: Path) -> bool:
    """Tell whether the stores of a file keep the session index with them."""
    return path.stem not in _OWN_FILES and not path.with_name(_INDEX_FILE).exists()


def replica_schemas(
    policy: ConflictPolicy | None = None, *, with_index: bool = False, further: Sequence[FurtherStore] = ()
) -> dict[str, StoreSchema]:
    """
    Return what a journal must know of the stores, without opening one.

    Args:
        policy: Decides what is shown of concurrent versions; last write wins if not given.
        with_index: Let chat history touch the session index of the same journal. Artifacts never do here, because
            which sessions they are listed under depends on more than their entries.
        further: Stores that are known beside those of this room.
    """
    journal, identity = MemoryJournal(), Identity.generate()
    index = SessionIndexStore(journal) if with_index else None
    schemas: dict[str, StoreSchema] = {}
    for kind in _STORES:
        store = kind(
            journal,
            identity,
            conflict_policy=policy,
            session_index=index if kind is ChatHistoryStore else None,
        )
        for schema in (store.schema, *(log.schema for log in store.further_logs())):
            schemas[schema.name] = schema
    return schemas | {store.name: store.schema(journal, None, policy) for store in further}


@asynccontextmanager
async def open_replica_stores(
    path: Path,
    *,
    policy: ConflictPolicy | None = None,
    stores: Collection[str] | None = None,
    further: Sequence[FurtherStore] = (),
) -> AsyncIterator[tuple[SQLiteJournal, tuple[str, ...], SessionIndexStore | None]]:
    """
    Open a journal file and the stores in it for writing, beside whatever else has it open.

    Nothing is synced, so it makes no difference whose identity the stores have; nor does a reaction run.

    Args:
        path: The file.
        policy: Decides what is shown of concurrent versions; last write wins if not given.
        stores: Only these; all that the file is for and that are known if not given.
        further: Stores that are known beside those of this room.

    Returns:
        The journal, the names of the open stores, and the session index if the file has it.

    Raises:
        StorageUnavailableError: The file cannot be opened.
        StorageCorruptionError: It is damaged, or no journal.
        MigrationError: A newer release wrote it.
    """
    async with AsyncExitStack() as stack:
        journal = await stack.enter_async_context(SQLiteJournal(path))
        index = SessionIndexStore(journal) if has_index(path) else None
        wanted = [name for name in stores_of_file(path, further) if stores is None or name in stores]
        identity, opened = Identity.generate(), list[str]()
        for store in _STORES:
            if any(name in wanted for name in with_parts(store.name)):
                await stack.enter_async_context(store(journal, identity, conflict_policy=policy, session_index=index))
                opened.append(store.name)
        for one in further:
            if one.name in wanted:
                await journal.register(one.schema(journal, index, policy))
                opened.append(one.name)
        yield journal, tuple(opened), index
