"""Everything a replica knows of one entry: what it says, what it supersedes, and who has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentlayers.errors import AgentLayersError, SettingsError
from agentlayers.journal import held_entries
from agentlayers.journal.conflict_policy import ConflictPolicy, Resolution, Version
from agentlayers.journal.entry import StoredEntry
from agentlayers.journal.primitives import EntryRow, RemoteRow
from agentlayers.limits import ENTRY_ID_BYTES
from agentlayers.protocol.payload import decode_payload
from agentlayers.storage.digest import is_synced
from agentlayers.storage.journal_file import journal_files
from agentlayers.storage.snapshot import JournalSnapshot, open_snapshot

__all__ = ["EntryDetails", "RemoteCopy", "VersionState", "inspect_entry", "readable_payload"]

_CANDIDATES_MAX: Final = 5


class RemoteCopy(NamedTuple):
    """
    What one remote has of an entry.

    Attributes:
        remote_id: 16 bytes.
        url: Where it was last reached; :obj:`None` when never told.
        is_retired: It no longer holds compaction back.
        state: ``acknowledged``, ``pending``, ``received from it`` or ``not sent``.
    """

    remote_id: bytes
    url: str | None
    is_retired: bool
    state: str


class VersionState(NamedTuple):
    """
    One version of the entry's key.

    Attributes:
        version: The version.
        is_head: Nothing supersedes it.
        is_shown: It is what the conflict policy shows.
    """

    version: Version
    is_head: bool
    is_shown: bool


@dataclass(frozen=True, slots=True)
class EntryDetails:
    """
    One entry.

    Attributes:
        path: The file it is in.
        stored: The entry.
        is_synced: It is sent to remotes, or was received.
        payload: Decoded; :obj:`None` where the bytes are no payload.
        error: Why it is not in its read model; empty when it is.
        versions: All versions of its key, by entry id; empty for an append-only entry.
        resolution: What the policy makes of them.
        remotes: What each remote has of it.
    """

    path: Path
    stored: StoredEntry
    is_synced: bool
    payload: Any
    error: str
    versions: tuple[VersionState, ...]
    resolution: Resolution | None
    remotes: tuple[RemoteCopy, ...]


def readable_payload(payload: bytes) -> Any:
    """Return a payload decoded, :obj:`None` where the bytes are none."""
    try:
        return decode_payload(payload)
    except AgentLayersError:
        return None


def inspect_entry(
    directory: Path, wanted: str, *, store: str | None = None, policy: ConflictPolicy | None = None
) -> EntryDetails:
    """
    Find one entry and tell everything about it.

    Args:
        directory: The replica's directory, or one journal file.
        wanted: Its id in hexadecimal, with or without dashes, or as many first digits as name one entry alone; or
            ``@`` and its local position.
        store: Only in this store.
        policy: Decides what is shown of concurrent versions; last write wins if not given.

    Raises:
        SettingsError: No entry is named so, or several are.
        StorageUnavailableError: There is no journal, or it cannot be read.
        StorageCorruptionError: A file is damaged, or no journal.
        MigrationError: A newer release wrote a file.
    """
    condition, values = _condition(wanted)
    found: list[tuple[Path, int, str]] = []
    notes: list[str] = []
    for path in journal_files(directory):
        with open_snapshot(path, policy=policy) as snapshot:
            for position, name, entry_id in _candidates(snapshot, condition, values):
                if store in (None, name):
                    found.append((path, position, f"{entry_id.hex()} ({name})"))
            notes.extend(_compacted(snapshot, condition, values))
    if len(found) != 1:
        raise SettingsError(setting="entry", value=wanted, expected=_what_would_be_right(found, notes))
    path, position, _name = found[0]
    with open_snapshot(path, policy=policy) as snapshot:
        rows = snapshot.tx.rows_at([position])
        if not rows:
            raise SettingsError(setting="entry", value=wanted, expected="an entry that is held; it was just compacted")
        return _details(snapshot, rows[0])


def _what_would_be_right(found: list[tuple[Path, int, str]], notes: list[str]) -> str:
    if found:
        names = ", ".join(name for _path, _position, name in found[:_CANDIDATES_MAX])
        more = ", ..." if len(found) > _CANDIDATES_MAX else ""
        return f"enough digits to name one entry, and --store where two stores have it: {names}{more}"
    if notes:
        return f"an entry that is held; {notes[0]} was compacted here"
    return "the id of an entry, its first digits, or @POSITION, as 'agentlayers journal list' shows them"


def _condition(wanted: str) -> tuple[str, tuple[Any, ...]]:
    if wanted.startswith("@") and wanted[1:].isdecimal() and len(wanted) < 20:  # below 2^63
        return "position = ?", (int(wanted[1:]),)
    digits = wanted.replace("-", "").lower()
    if not digits or len(digits) > 2 * ENTRY_ID_BYTES or set(digits) - set("0123456789abcdef"):
        raise SettingsError(setting="entry", value=wanted, expected=_what_would_be_right([], []))
    low = bytes.fromhex(digits.ljust(2 * ENTRY_ID_BYTES, "0"))
    high = bytes.fromhex(digits.ljust(2 * ENTRY_ID_BYTES, "f"))
    return "id BETWEEN ? AND ?", (low, high)


def _candidates(snapshot: JournalSnapshot, condition: str, values: tuple[Any, ...]) -> Iterator[tuple[int, str, bytes]]:
    query = f"SELECT position, store, id FROM entry WHERE {condition} ORDER BY position LIMIT {2 * _CANDIDATES_MAX}"
    for position, number, entry_id in snapshot.connection.execute(query, values):
        yield position, snapshot.store_names[number], entry_id


def _compacted(snapshot: JournalSnapshot, condition: str, values: tuple[Any, ...]) -> list[str]:
    if condition.startswith("position"):
        return []
    query = f"SELECT hex(id) FROM horizon WHERE {condition} LIMIT 1"
    return [text.lower() for (text,) in snapshot.connection.execute(query, values)]


def _details(snapshot: JournalSnapshot, row: EntryRow) -> EntryDetails:
    tx, stored = snapshot.tx, snapshot.tx.stored(row)
    error = next((one.error for one in tx.unapplied(stored.store) if one.stored.position == row.position), "")
    versions, resolution = _versions(snapshot, row, stored.store)
    return EntryDetails(
        snapshot.path,
        stored,
        is_synced(stored, is_observation=stored.is_local and not row.outbound),
        readable_payload(row.payload),
        error,
        versions,
        resolution,
        tuple(_copy(snapshot, row, remote) for remote in tx.list_remotes(row.store)),
    )


def _versions(
    snapshot: JournalSnapshot, row: EntryRow, store: str
) -> tuple[tuple[VersionState, ...], Resolution | None]:
    schema = snapshot.registry.schemas.get(store)
    if not row.keyed or schema is None:
        return (), None
    versions = snapshot.tx.versions(store, row.primary_key)
    heads = snapshot.tx.heads(store, row.primary_key)
    try:
        resolution = schema.policy.resolve(heads) if heads else None
    except AgentLayersError:
        resolution = None
    ids = {head.id for head in heads}
    shown = None if resolution is None else resolution.winner
    return tuple(VersionState(version, version.id in ids, version.id == shown) for version in versions), resolution


def _copy(snapshot: JournalSnapshot, row: EntryRow, remote: RemoteRow) -> RemoteCopy:
    tx, received = snapshot.tx, not row.outbound
    watermark = remote.relay_watermark if received else remote.watermark
    if row.origin == remote.number:
        state = "received from it"
    elif received and (row.origin == 0 or not held_entries.relays(tx, remote)):
        state = "not sent"
    elif row.position <= watermark or tx.noted(remote.number, [row.position], received=received):
        state = "acknowledged"
    else:
        state = "pending"
    return RemoteCopy(remote.remote_id, remote.url, remote.is_retired, state)
