"""
Bring heads and read models up to date with new entries, and report conflicts.

A projection that raises leaves its entry *unapplied*: stored, visible, retried at the next registration. The
others of its batch are not affected. So does an event that the store does not declare: its entry is not understood
until a release knows it, and is then taken into account as if it had just come.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from agentlayers.errors import MalformedMessageError, StorageError, UnknownEventError
from agentlayers.journal.causality import NO_STATE, Conflict, Head, KeyState, with_version
from agentlayers.journal.competing import content_digest
from agentlayers.journal.conflict_policy import Resolution, Version
from agentlayers.journal.entry import Entry
from agentlayers.journal.event_journal import Observation, StoreSchema
from agentlayers.journal.primitives import EntryRow, UnappliedRow
from agentlayers.logs import get_logger

if TYPE_CHECKING:
    from agentlayers.journal.transaction import JournalTransaction

__all__ = ["apply_rows", "conflict_of", "emit", "is_understood", "report_conflicts", "retry_unapplied"]

logger = get_logger(__name__)

_ERROR_TEXT_MAX = 500
_new_tuple: Final = tuple.__new__
_head_id: Final = attrgetter("id")


def apply_rows(
    tx: JournalTransaction,
    schema: StoreSchema,
    rows: Sequence[EntryRow],
    versions: Mapping[bytes, Version],
) -> list[tuple[EntryRow, KeyState]]:
    """
    Take new rows into account: first all heads, then all projections.

    Args:
        tx: The open transaction.
        schema: Their store.
        rows: New entries, appended already.
        versions: The keyed ones among them, decoded.

    Returns:
        Each keyed row with the state of its key right after it, to report conflicts by.
    """
    states = []
    strange = [row for row in rows if not is_understood(schema, row.event)]
    if strange:
        _note_strange(tx, schema, strange)
        rows = [row for row in rows if is_understood(schema, row.event)]
    for row in rows:
        if row.keyed:
            state = with_version(tx.key_state(row.store, row.primary_key) or NO_STATE, versions[row.id])
            tx.put_key_state(row.store, row.primary_key, state)
            states.append((row, state))
    _project_all(tx, schema, rows, dict(versions))
    return states


def is_understood(schema: StoreSchema, event: str) -> bool:
    """Tell whether this release knows what to make of an event."""
    return schema.events is None or event in schema.events


def _note_strange(tx: JournalTransaction, schema: StoreSchema, rows: Sequence[EntryRow]) -> None:
    for row in rows:
        error = UnknownEventError(event=row.event, store=schema.name, known=tuple(sorted(schema.events or ())))
        tx.set_applied(row.position, applied=False)
        tx.put_unapplied(UnappliedRow(row.position, _error_text(error), 0))
    events = sorted({row.event for row in rows})
    logger.info("entries_not_understood", store=schema.name, events=events, count=len(rows))


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_ERROR_TEXT_MAX]


def _project_all(
    tx: JournalTransaction,
    schema: StoreSchema,
    rows: Sequence[EntryRow],
    versions: dict[bytes, Version],
) -> None:
    heads: dict[str, list[Version]] = {}
    savepoint = tx.open_savepoint()
    try:
        for row in rows:
            _project(tx, schema, row, versions, heads)
    except StorageError:
        # The medium failed, not the projection: the whole transaction has to fail.
        raise
    except Exception as error:  # noqa: BLE001  # whatever a projection raises
        tx.rollback_savepoint(savepoint)
        if len(rows) == 1:
            _note_failure(tx, schema, rows[0], error, attempts=1)
            return
        for row in rows:
            _project_one(tx, schema, row, attempts=1)
    else:
        tx.release_savepoint(savepoint)


def _project_one(tx: JournalTransaction, schema: StoreSchema, row: EntryRow, *, attempts: int) -> bool:
    savepoint = tx.open_savepoint()
    try:
        _project(tx, schema, row, {}, {})
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever a projection raises
        tx.rollback_savepoint(savepoint)
        _note_failure(tx, schema, row, error, attempts=attempts)
        return False
    tx.release_savepoint(savepoint)
    return True


def _project(
    tx: JournalTransaction,
    schema: StoreSchema,
    row: EntryRow,
    versions: dict[bytes, Version],
    heads: dict[str, list[Version]],
) -> None:
    entry = _new_tuple(Entry, row[2:6])  # the same fields in the same order, at half the cost
    if not row.keyed:
        schema.project(tx, entry, ())
        return
    known = heads.get(row.primary_key)
    if known is None:
        # Heads are those after the whole batch, so a key with many new versions is decoded once.
        known = heads[row.primary_key] = _current_heads(tx, schema, row, versions)
    schema.project(tx, entry, known)


def _current_heads(
    tx: JournalTransaction, schema: StoreSchema, row: EntryRow, versions: dict[bytes, Version]
) -> list[Version]:
    state = tx.key_state(row.store, row.primary_key) or NO_STATE
    return [versions.get(head.id) or tx.version_from(schema, tx.expect_row(row.store, head.id)) for head in state.heads]


def _note_failure(
    tx: JournalTransaction, schema: StoreSchema, row: EntryRow, error: Exception, *, attempts: int
) -> None:
    logger.warning(
        "entry_unapplied",
        store=schema.name,
        event_name=row.event,
        entry_id=row.id.hex(),
        error=type(error).__name__,
        attempts=attempts,
    )
    tx.set_applied(row.position, applied=False)
    tx.put_unapplied(UnappliedRow(row.position, _error_text(error), attempts))


def retry_unapplied(tx: JournalTransaction, schema: StoreSchema, *, after: int, entries_max: int) -> int | None:
    """Project unapplied entries once more, if their event is known; returns the position to go on behind, if any."""
    failed = {row.position: row for row in tx.unapplied_rows(tx.store_number(schema.name), after, entries_max)}
    rows = [row for row in tx.rows_at(list(failed)) if is_understood(schema, row.event)]
    # All heads first, as for entries that arrive.
    usable = [_as_version(tx, schema, row, failed[row.position]) for row in rows]
    for row in filter(None, usable):
        if _project_one(tx, schema, row, attempts=failed[row.position].attempts + 1):
            tx.drop_unapplied(row.position)
            tx.set_applied(row.position, applied=True)
    return max(failed) if len(failed) == entries_max else None


def _as_version(tx: JournalTransaction, schema: StoreSchema, row: EntryRow, failed: UnappliedRow) -> EntryRow | None:
    """Let an entry count as a version of its key if its event has become a keyed one; nothing if it cannot be one."""
    if row.keyed or row.event not in schema.keyed_events:
        return row
    try:
        version = tx.version_from(schema, row)
    except (MalformedMessageError, ValueError, TypeError) as error:
        _note_failure(tx, schema, row, error, attempts=failed.attempts + 1)
        return None
    tx.set_keyed(row.position)
    state = with_version(tx.key_state(row.store, row.primary_key) or NO_STATE, version)
    tx.put_key_state(row.store, row.primary_key, state)
    return row._replace(keyed=True)


def conflict_of(schema: StoreSchema, primary_key: str, heads: Sequence[Version]) -> Conflict:
    """Describe several heads and what the policy makes of them."""
    return Conflict(schema.name, primary_key, tuple(heads), _resolve(schema, heads))


def _resolve(schema: StoreSchema, heads: Sequence[Version]) -> Resolution | None:
    try:
        return schema.policy.resolve(heads)
    except Exception as error:  # noqa: BLE001  # a user's policy; what it breaks is shown by its projection
        logger.warning("conflict_policy_failed", store=schema.name, error=type(error).__name__)
        return None


class _Contents:
    """
    What the versions of one key say, each looked at once, though heads may be thousands.

    Args:
        tx: The open transaction.
        schema: The store.
        row: A version that arrived.
        state: Its key right after it. Every later head of the batch is among its heads, or arrives later.
        heads: Versions that are decoded already.
    """

    def __init__(
        self,
        tx: JournalTransaction,
        schema: StoreSchema,
        row: EntryRow,
        state: KeyState,
        heads: Sequence[Version],
    ) -> None:
        self._tx, self._schema, self._store = tx, schema, row.store
        self._decoded = {head.id: head for head in heads}
        self._digests: dict[bytes, bytes] = {}
        self._same: dict[bytes, list[bytes]] = {}
        for head in state.heads:
            self._digest(head.id)

    def others(self, heads: Sequence[Head], entry_id: bytes) -> int:
        """Count the heads that say something else than one of them."""
        return len(heads) - sum(_is_among(heads, same) for same in self._same[self._digest(entry_id)])

    def _digest(self, entry_id: bytes) -> bytes:
        digest = self._digests.get(entry_id)
        if digest is None:
            version = self._decoded.get(entry_id)
            if version is None:  # superseded by now, by a later one of the same batch
                version = self._tx.version_from(self._schema, self._tx.expect_row(self._store, entry_id))
            digest = self._digests[entry_id] = content_digest(self._schema, version)
            self._same.setdefault(digest, []).append(entry_id)
        return digest


def _is_among(heads: Sequence[Head], entry_id: bytes) -> bool:
    at = bisect_left(heads, entry_id, key=_head_id)
    return at < len(heads) and heads[at].id == entry_id


def report_conflicts(
    tx: JournalTransaction,
    schema: StoreSchema,
    remote_id: bytes,
    states: Sequence[tuple[EntryRow, KeyState]],
) -> None:
    """
    Emit ``sync_conflict`` for each arrived version that is concurrent with others which say something else.

    Each pair of versions meets once, when the later one arrives, so none is reported twice. The resolution is
    the one after the whole batch, so a key with many new versions is resolved once.
    """
    contents: dict[str, _Contents] = {}
    current: dict[str, list[Version]] = {}
    resolutions: dict[str, Resolution | None] = {}
    for row, state in states:
        if not _is_among(state.heads, row.id):
            continue
        if len(state.heads) < 2:
            contents.pop(row.primary_key, None)  # it has superseded all that was looked at
            continue
        if row.primary_key not in resolutions:
            current[row.primary_key] = _current_heads(tx, schema, row, {})
            resolutions[row.primary_key] = _resolve(schema, current[row.primary_key])
        if row.primary_key not in contents:
            contents[row.primary_key] = _Contents(tx, schema, row, state, current[row.primary_key])
        others = contents[row.primary_key].others(state.heads, row.id)
        if not others:
            continue
        resolution = resolutions[row.primary_key]
        fields: dict[str, object] = {
            "remoteId": remote_id.hex(),
            "event": row.event,
            "primaryKey": row.primary_key,
            "entryId": row.id.hex(),
            "conflictCount": others,
            "resolution": resolution.outcome if resolution else "reject",
        }
        if resolution and resolution.outcome != "reject" and resolution.winner is not None:
            fields["resolvedEntryId"] = resolution.winner.hex()
        emit(tx, Observation("sync_conflict", schema.name, fields))


def emit(tx: JournalTransaction, observation: Observation) -> None:
    """Hand an observation to every observer, each in its own savepoint; one that fails harms nothing else."""
    for observer in tuple(tx.registry.observers):
        savepoint = tx.open_savepoint()
        try:
            observer(tx, observation)
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001  # an observer records; it must not stop what it observes
            tx.rollback_savepoint(savepoint)
            logger.warning("observer_failed", kind=observation.kind, error=type(error).__name__)
        else:
            tx.release_savepoint(savepoint)
