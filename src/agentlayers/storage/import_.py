"""
Take an export over into a replica.

Entries keep their ids, so what is here already stays as it is, and importing a file twice changes nothing. What is new
gets the next local positions and counts as written here: it is pending for every remote, which knows by the id what it
has. What was compacted here does not come back; what is older than the horizon is quarantined, as from a remote.

The whole file is read and checked before the first entry is written. Concurrent versions that an import brings are
open conflicts as any others, but no ``sync_conflict`` is recorded: that is for what a remote sent.

Entries of a store that an application declares are kept like those of an event not known yet: they are in no read model
until the application opens the store.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentlayers.errors import (
    AgentLayersError,
    DecryptionError,
    MigrationError,
    SettingsError,
    StorageCorruptionError,
    StorageUnavailableError,
)
from agentlayers.journal.causality import version_of
from agentlayers.journal.conflict_policy import ConflictPolicy, Version
from agentlayers.journal.entry import Entry
from agentlayers.journal.entry_id import entry_id_millis
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.primitives import EntryRow, QuarantinedRow
from agentlayers.journal.projection import apply_rows, is_understood
from agentlayers.journal.quarantine import keep_imported, release
from agentlayers.journal.replication import HORIZON_FLOOR
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.journal.sqlite.journal import JOURNAL_FILE
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.limits import ENTRY_ID_BYTES, EXPORT_LINE_BYTES_MAX, PAYLOAD_BYTES_MAX
from agentlayers.protocol.payload import decode_payload
from agentlayers.storage.export import FORMAT, FORMAT_VERSION, payload_of_line
from agentlayers.storage.replica_store import (
    STORE_NAMES,
    FurtherStore,
    file_of_store,
    is_for,
    open_replica_stores,
    own_file_name,
    replica_schemas,
)
from agentlayers.storage.sealed_export import SEALED_FORMAT, SEALED_VERSION, ExportSecret, open_lines
from agentlayers.storage.snapshot import open_snapshot

__all__ = [
    "ExportOrigin",
    "ImportReport",
    "ImportedEntry",
    "StoreImport",
    "import_export",
    "read_export",
    "read_export_header",
    "take_over",
]

Progress = Callable[[int], None]

_BATCH_ENTRIES: Final = 256
_BATCH_BYTES: Final = 4 * 1024 * 1024


class ExportOrigin(NamedTuple):
    """
    Whose an export is.

    Attributes:
        replica: Name of the replica.
        journals: Names of its files.
    """

    replica: str
    journals: tuple[str, ...] = ()


class ImportedEntry(NamedTuple):
    """
    One entry of an export.

    Attributes:
        store: Where it belongs.
        entry: The entry.
        is_synced: It is no observation of the exported replica alone.
    """

    store: str
    entry: Entry
    is_synced: bool = True


@dataclass(slots=True)
class StoreImport:
    """
    What became of one store's entries.

    Attributes:
        imported: New here.
        known: Here already.
        compacted: Compacted here, so left out.
        quarantined: Older than the horizon, so kept aside.
        unapplied: Of the imported ones, those in no read model until an application that declares their event opens
            the store.
    """

    imported: int = 0
    known: int = 0
    compacted: int = 0
    quarantined: int = 0
    unapplied: int = 0


@dataclass(slots=True)
class ImportReport:
    """
    What an import did.

    Attributes:
        replica: Name of the replica that was exported.
        stores: By store, in the order met.
    """

    replica: str
    stores: dict[str, StoreImport] = field(default_factory=dict)


# -- reading ------------------------------------------------------------------------------------------------
def read_export_header(path: Path) -> Mapping[str, Any]:
    """
    Return the first line of an export.

    Raises:
        StorageUnavailableError: The file cannot be read.
        StorageCorruptionError: It is no export.
        MigrationError: A newer release wrote it.
    """
    with _lines_of(path) as lines:
        return _checked_header(path, next(lines, ""), (FORMAT, SEALED_FORMAT))


def read_export(
    path: Path, *, secret: ExportSecret | None = None, progress: Progress | None = None
) -> Iterator[ImportedEntry | ExportOrigin]:
    """
    Iterate over the entries of an export, plain or sealed; the first item says whose it is.

    Args:
        path: The file.
        secret: What it is sealed with; not needed for a plain one.
        progress: Called with the number of bytes read since the last call.

    Raises:
        StorageUnavailableError: The file cannot be read.
        StorageCorruptionError: It is no export, or damaged; the text names the line.
        DecryptionError: The secret is not the right one, or the file was changed.
        MigrationError: A newer release wrote it.
    """
    with _lines_of(path, progress) as lines:
        first = next(lines, "")
        header = _checked_header(path, first, (FORMAT, SEALED_FORMAT))
        plain: Iterator[str] = lines
        if header["format"] == SEALED_FORMAT:
            if secret is None:
                raise DecryptionError(f"the export is sealed with {header.get('key')}; give it")
            plain = _opened(path, open_lines(first, lines, secret))
            header = _checked_header(path, next(plain, ""), (FORMAT,))
        journals = header.get("journals")
        yield ExportOrigin(str(header.get("replica", "")), tuple(journals) if isinstance(journals, list) else ())
        for number, line in enumerate(plain, 2):
            yield _entry(path, number, line)


def _opened(path: Path, lines: Iterator[str]) -> Iterator[str]:
    try:
        yield from lines
    except DecryptionError as error:
        raise DecryptionError(f"{path}: {error}; nothing was imported") from None


class _lines_of:  # noqa: N801  # used as a function
    """The lines of a file, none longer than an export can have."""

    def __init__(self, path: Path, progress: Progress | None = None) -> None:
        self._path, self._progress = path, progress

    def __enter__(self) -> Iterator[str]:
        try:
            self._file = self._path.open("rb")
        except OSError as error:
            raise self._unreadable(error) from error
        return self._lines()

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def _lines(self) -> Iterator[str]:
        number = 0
        while data := self._read():
            number += 1
            if not data.endswith(b"\n") and len(data) > EXPORT_LINE_BYTES_MAX:
                raise damaged(self._path, number, f"it is longer than {EXPORT_LINE_BYTES_MAX} bytes")
            if self._progress is not None:
                self._progress(len(data))
            try:
                yield data.decode().rstrip("\n")
            except UnicodeDecodeError:
                raise damaged(self._path, number, "it is not UTF-8") from None

    def _read(self) -> bytes:
        try:
            return self._file.readline(EXPORT_LINE_BYTES_MAX + 1)
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> StorageUnavailableError:
        reason = f"{error.strerror or error}; give a file that 'agentlayers journal export' wrote"
        return StorageUnavailableError(backend="export", operation="read", path=self._path, reason=reason)


def damaged(path: Path, number: int, reason: str) -> StorageCorruptionError:
    """Return the error for a line that is not what an export has there."""
    reason = f"line {number}: {reason}; nothing was imported"
    return StorageCorruptionError(backend="export", operation="read", path=path, reason=reason)


def _checked_header(path: Path, line: str, formats: Collection[str]) -> Mapping[str, Any]:
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, Mapping) or header.get("format") not in formats:
        raise damaged(path, 1, "it is no header of an export; give a file that 'agentlayers journal export' wrote")
    newest = SEALED_VERSION if header["format"] == SEALED_FORMAT else FORMAT_VERSION
    if header.get("version") != newest:
        reason = f"it has format version {header.get('version')!r}, this release reads {newest}; use a newer one"
        raise MigrationError(backend="export", operation="read", path=path, reason=reason)
    return header


def _entry(path: Path, number: int, line: str) -> ImportedEntry:
    try:
        fields = json.loads(line)
        entry_id = bytes.fromhex(fields["id"])
        entry = Entry(entry_id, fields["event"], fields["primary_key"], payload_of_line(fields))
        entry.primary_key.encode()
        entry.event.encode()
        store = fields["store"]
        store.encode()
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, RecursionError, AgentLayersError) as error:
        raise damaged(path, number, f"it is no entry ({type(error).__name__})") from error
    if len(entry_id) != ENTRY_ID_BYTES or not isinstance(store, str) or not store:
        raise damaged(path, number, "it is no entry: its id has 16 bytes and its store a name")
    if len(entry.payload) > PAYLOAD_BYTES_MAX:
        raise damaged(path, number, f"its payload has more than {PAYLOAD_BYTES_MAX} bytes")
    return ImportedEntry(store, entry, fields.get("synced") is not False)


# -- taking over --------------------------------------------------------------------------------------------
async def import_export(
    directory: Path,
    path: Path,
    *,
    stores: Collection[str] | None = None,
    secret: ExportSecret | None = None,
    policy: ConflictPolicy | None = None,
    progress: Progress | None = None,
    further: Sequence[FurtherStore] = (),
) -> ImportReport:
    """
    Take an export over into a replica, which is made if there is none.

    Args:
        directory: The replica's directory.
        path: The export.
        stores: Only these; all if not given.
        secret: What the export is sealed with; not needed for a plain one.
        policy: The one the replica's application shows artifacts by; last write wins if not given.
        progress: Called with the number of bytes read; the file is read twice.
        further: Stores that whoever asks knows beside those of this room. Entries of any other are kept until an
            application opens the store.

    Raises:
        StorageUnavailableError: The file cannot be read, or the journal not written.
        StorageCorruptionError: The export or the journal is damaged; nothing was imported then.
        DecryptionError: The secret is not the right one, or the export was changed.
        MigrationError: A newer release wrote the export or the journal.
        SettingsError: A store was asked for that neither the export has nor anybody knows, or that the file is not for.
    """
    known = (*STORE_NAMES, *(store.name for store in further))
    origin, found = _check(path, stores, secret, progress, replica_schemas(further=further))
    report = ImportReport(origin.replica)
    files: dict[str, Path] = {}
    for store in dict.fromkeys([*known, *found] if stores is None else stores):
        if store not in known and store not in found:
            expected = f"one of {', '.join(dict.fromkeys([*known, *found]))}"
            raise SettingsError(setting="--store", value=store, expected=expected)
        files[store] = file = _file_for(directory, store, origin)
        if not is_for(file, store, further):
            raise SettingsError(setting="--store", value=store, expected=f"a store that {file.name} is for")
    async with AsyncExitStack() as stack:
        opened: dict[Path, SQLiteJournal] = {}
        for file in dict.fromkeys(files.values()):
            names = [store for store, place in files.items() if place == file]
            opening = open_replica_stores(file, policy=policy, stores=names, further=further)
            opened[file] = (await stack.enter_async_context(opening))[0]
        for store, batch in _batches(read_export(path, secret=secret, progress=progress), stores):
            entries = [item.entry for item in batch]
            observed = {item.entry.id for item in batch if not item.is_synced}
            work = partial(take_over, store=store, entries=entries, observed=observed)
            _add(report.stores.setdefault(store, StoreImport()), await opened[files[store]].transact(work))
    return report


def _file_for(directory: Path, store: str, origin: ExportOrigin) -> Path:
    """Return where a store goes: where it is kept already, else in a file of its own if it had one."""
    file, own = file_of_store(directory, store), own_file_name(store)
    if own is None or own not in origin.journals or file != directory / JOURNAL_FILE:
        return file
    if file.is_file():
        with open_snapshot(file) as snapshot:
            if snapshot.tx.count_rows(snapshot.tx.store_number(store)):
                return file
    return directory / own


def _add(total: StoreImport, done: StoreImport) -> None:
    total.imported += done.imported
    total.known += done.known
    total.compacted += done.compacted
    total.quarantined += done.quarantined
    total.unapplied += done.unapplied


def _check(
    path: Path,
    stores: Collection[str] | None,
    secret: ExportSecret | None,
    progress: Progress | None,
    schemas: Mapping[str, StoreSchema],
) -> tuple[ExportOrigin, list[str]]:
    """Read the whole file, so that one that is damaged changes nothing; returns whose it is, and its stores."""
    origin, found = ExportOrigin(""), dict[str, None]()
    for number, item in enumerate(read_export(path, secret=secret, progress=progress), 1):
        if isinstance(item, ExportOrigin):
            origin = item
            continue
        found[item.store] = None
        schema = schemas.get(item.store)
        if schema is None or (stores is not None and item.store not in stores):
            continue
        if item.entry.event in schema.keyed_events:
            try:
                _version(schema, item.entry)
            except (AgentLayersError, ValueError, TypeError) as error:
                raise damaged(path, number, f"its payload is not that of a {item.entry.event}") from error
    return origin, list(found)


def _version(schema: StoreSchema, entry: Entry) -> Version:
    is_deletion = entry.event in schema.deletions
    return version_of(entry.id, entry.event, decode_payload(entry.payload), is_deletion=is_deletion)


def _batches(
    items: Iterable[ImportedEntry | ExportOrigin], stores: Collection[str] | None
) -> Iterator[tuple[str, list[ImportedEntry]]]:
    """Cut into runs of one store, bounded in number and bytes, in the file's order."""
    store, batch, size = "", list[ImportedEntry](), 0
    for item in islice(items, 1, None):
        assert isinstance(item, ImportedEntry)
        if stores is not None and item.store not in stores:
            continue
        if batch and (item.store != store or len(batch) >= _BATCH_ENTRIES or size > _BATCH_BYTES):
            yield store, batch
            batch, size = [], 0
        store = item.store
        batch.append(item)
        size += len(item.entry.payload)
    if batch:
        yield store, batch


def take_over(
    tx: JournalTransaction, *, store: str, entries: list[Entry], observed: Collection[bytes] = ()
) -> StoreImport:
    """
    Write entries that were made elsewhere, with the ids they have.

    Args:
        tx: A transaction that writes. Entries of a store that is not registered in its journal, or of an event that
            the store does not know, are kept and applied once they are understood.
        store: Where they belong.
        entries: Those held already, or compacted here, are left out; those older than the horizon are quarantined.
        observed: Ids of those that are no more than observations of another replica. Asked for only where the event is
            not known here; those of other events are told by it.
    """
    schema = tx.registry.schemas.get(store) or StoreSchema(name=store, events=frozenset())
    number, done = tx.store_number(store), StoreImport()
    ids = [entry.id for entry in entries]
    known = set(tx.held(number, ids))
    compacted = tx.compacted(number, [entry_id for entry_id in ids if entry_id not in known])
    floor = int.from_bytes(tx.get_setting(f"{HORIZON_FLOOR}{number}") or b"")
    rows: list[EntryRow] = []
    versions: dict[bytes, Version] = {}
    for entry in entries:
        if entry.id in known:
            done.known += 1
        elif entry.id in compacted:
            done.compacted += 1
        elif floor and entry_id_millis(entry.id) <= floor:
            done.quarantined += _set_aside(tx, number, entry)
        else:
            row = _row(tx, schema, number, entry, is_observed=entry.id in observed)
            if row.keyed:
                versions[entry.id] = _own_version(tx, _version(schema, entry))
            elif not is_understood(schema, entry.event):
                done.unapplied += 1
                _heed_name(tx, schema, entry)
            tx.append_row(row)
            rows.append(row)
        known.add(entry.id)
    if rows:
        tx.written_stores.add(store)
        tx.sources.add((store, b""))
        tx.note_ids([row.id for row in rows])
        release(tx, number, [row.id for row in rows])
        apply_rows(tx, schema, rows, versions)
    done.imported = len(rows)
    return done


def _row(tx: JournalTransaction, schema: StoreSchema, number: int, entry: Entry, *, is_observed: bool) -> EntryRow:
    is_local = is_observed if not is_understood(schema, entry.event) else entry.event in schema.unsynced_events
    return EntryRow(
        tx.next_position(),
        number,
        *entry,
        outbound=not is_local,
        origin=0,
        keyed=entry.event in schema.keyed_events,
        applied=True,
    )


def _own_version(tx: JournalTransaction, version: Version) -> Version:
    # Written under our name, but not here as we are: this journal was restored from an older backup. What others
    # have seen of that name must never cover what we write from now on, so we take a new one.
    if version.replica == tx.registry.replica_id:
        tx.renew_replica_id()
    return version


def _heed_name(tx: JournalTransaction, schema: StoreSchema, entry: Entry) -> None:
    """Take a new name if what is not understood may be a version that was written under ours."""
    try:
        _own_version(tx, _version(schema, entry))
    except (AgentLayersError, ValueError, TypeError):
        return  # no version of ours: those can be read


def _set_aside(tx: JournalTransaction, number: int, entry: Entry) -> int:
    reason = "imported, but older than the compaction horizon"
    row = QuarantinedRow(number, entry.id, 0, 0, entry.event, entry.primary_key, entry.payload, reason)
    return int(keep_imported(tx, row))
