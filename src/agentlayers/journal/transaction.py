"""
One transaction of a journal: what every backend does the same way.

Handed to ``transact`` and ``read`` callbacks and to projections. It is synchronous, does no I/O but its own,
and is valid only until the callback returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from agentlayers.errors import StateError, StorageCorruptionError, UsageError
from agentlayers.journal import projection, quarantine, replication
from agentlayers.journal.causality import CAUSAL_KEY, NO_STATE, Conflict, causal_payload, version_of
from agentlayers.journal.competing import are_competing
from agentlayers.journal.conflict_policy import Version
from agentlayers.journal.entry import Entry, RemoteEntry, StoredEntry
from agentlayers.journal.entry_id import entry_id_ceiling, next_entry_id
from agentlayers.journal.event_journal import (
    Acknowledgement,
    QuarantinedEntry,
    RelayMode,
    Remote,
    RemoteState,
    RemoteWriteResult,
    StoreSchema,
    UnappliedEntry,
)
from agentlayers.journal.primitives import EntryRow, JournalPrimitives
from agentlayers.journal.quarantine import QuarantineResult, UnreadableEntry
from agentlayers.journal.registry import JournalRegistry
from agentlayers.journal.text_search import TextHit, TextOrder, TextTerm
from agentlayers.limits import PAYLOAD_BYTES_MAX
from agentlayers.logs import get_logger
from agentlayers.protocol.payload import decode_payload, encode_payload

__all__ = ["JournalTransaction"]

logger = get_logger(__name__)

_new_tuple: Final = tuple.__new__


class JournalTransaction(JournalPrimitives):
    """
    Reads and writes of one transaction.

    Attributes:
        registry: The journal's stores, observers and clock.
        read_only: Whether this is a ``read``; writing then raises
            :class:`~agentlayers.errors.StateError`.
        holds_far_id: An id too far ahead of the clock to count was seen; it may count later.
        written_stores: Stores that got entries.
        sources: Where those that can be pending came from, as in a :class:`Commit`.
    """

    def __init__(self, registry: JournalRegistry, *, read_only: bool) -> None:
        self.registry = registry
        self.read_only = read_only
        self._highest: bytes | None = None
        self.holds_far_id = False
        self.written_stores: set[str] = set()
        self.sources: set[tuple[str, bytes]] = set()

    # -- writing -------------------------------------------------------------------------------------------
    def write(self, store: str, event: str, primary_key: str, payload: Mapping[str, Any]) -> Entry:
        """
        Add one local entry, project it, and make it pending for every remote of its store.

        Raises:
            StateError: The store is not registered, or this is a ``read``.
            UsageError: The payload cannot be encoded, is too large, or uses the reserved key ``_causal``.
        """
        self.require_writable()
        schema = self.registry.schema(store)
        number = self.store_number(store)
        if CAUSAL_KEY in payload:
            raise UsageError(f"payload key {CAUSAL_KEY!r} is reserved for the journal; rename it")
        keyed = event in schema.keyed_events
        floor = b""
        if keyed:
            seen = (self.key_state(number, primary_key) or NO_STATE).context()
            # Ids of one replica must ascend within a key even after a clock step back of any size: `seen`
            # names only the highest, and that must cover all the earlier ones.
            floor = seen.get(self.registry.replica_id, b"")
            payload = causal_payload(payload, self.registry.replica_id, seen)
        encoded = _encode(payload, event)
        row = EntryRow(
            self.next_position(), number, self._next_id(floor), _checked_text(event), _checked_text(primary_key),
            encoded, event not in schema.unsynced_events, 0, keyed, applied=True,
        )  # fmt: skip
        self.append_row(row)
        self.written_stores.add(store)
        if row.outbound:
            self.sources.add((store, b""))
        version = self.version_from(schema, row) if keyed else None
        projection.apply_rows(self, schema, [row], {row.id: version} if version else {})
        return Entry(row.id, event, primary_key, encoded)

    def _next_id(self, floor: bytes) -> bytes:
        now_ms = self.registry.now_ms()
        ceiling = entry_id_ceiling(now_ms)
        highest = self._highest
        if highest is None:
            highest = self.highest_id(ceiling)
        made = next_entry_id(now_ms, max(highest, floor), self.registry.random.getrandbits(48))
        if made < ceiling:
            self._highest = made
        else:
            self._highest, self.holds_far_id = highest, True
        return made

    def note_ids(self, ids: Sequence[bytes]) -> None:
        """Let the next local id follow these, unless they are too far ahead."""
        if self._highest is None:
            return
        top = max(ids, default=b"")
        ceiling = entry_id_ceiling(self.registry.now_ms())
        if top >= ceiling:
            self.holds_far_id = True
            top = max((entry_id for entry_id in ids if entry_id < ceiling), default=b"")
        self._highest = max(self._highest, top)

    def put(self, key: bytes, value: bytes) -> None:
        """
        Write one value of a read model; keys start with the store's name and a zero byte.

        Raises:
            UsageError: Key or value are no bytes.
        """
        self.require_writable()
        if type(key) is not bytes or type(value) is not bytes:
            # Refused here, because at the commit it would fail everybody who shares it.
            raise UsageError(f"a read model holds bytes, not {type(key).__name__} -> {type(value).__name__}")
        self.put_value(key, value)

    def delete(self, key: bytes) -> None:
        """
        Delete one value of a read model; nothing happens when there is none.

        Raises:
            UsageError: The key is no bytes.
        """
        self.require_writable()
        if type(key) is not bytes:
            raise UsageError(f"a key of a read model is bytes, not {type(key).__name__}")
        self.put_value(key, None)

    def index_text(self, store: str, entry_id: bytes, text: str, *, scope: str = "") -> None:
        """
        Let :meth:`search_text` find an entry by a text, which replaces the one it had.

        Args:
            store: Where the entry is; nothing happens if it is not there.
            entry_id: The entry.
            text: What it is found by.
            scope: What searches can be limited to, such as a session.
        """
        self.require_writable()
        self.put_text(self.store_number(store), entry_id, scope, text)

    def unindex_text(self, store: str, entry_id: bytes) -> None:
        """Let an entry not be found by a text any more; to be done before it is dropped."""
        self.require_writable()
        self.put_text(self.store_number(store), entry_id, "", None)

    def require_writable(self) -> None:
        """
        Refuse to write in a ``read``.

        Raises:
            StateError: This is a ``read``.
        """
        if self.read_only:
            raise StateError("a read cannot write; use transact()")

    # -- reading -------------------------------------------------------------------------------------------
    def now_ms(self) -> int:
        """Return the journal's clock in Unix milliseconds."""
        return self.registry.now_ms()

    def get(self, key: bytes) -> bytes | None:
        """Read one value of a read model; :obj:`None` when there is none."""
        return self.get_value(key)

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """
        Iterate over a read model in key order.

        Args:
            start: First key, inclusive.
            end: Last key, exclusive (see :func:`~agentlayers.key_value.keys.prefix_end`).
            reverse: From the end to the start.
            limit: At most so many.
        """
        return self.scan_values(start, end, reverse=reverse, rows_max=limit)

    def entry(self, entry_id: bytes) -> Entry | None:
        """Look up an entry of any store by id."""
        row = self.find_row(None, entry_id)
        return None if row is None else _entry(row)

    def stored_entry(self, entry_id: bytes) -> StoredEntry | None:
        """Look up an entry of any store by id, with its local position."""
        row = self.find_row(None, entry_id)
        return None if row is None else self.stored(row)

    def entries(
        self, store: str | None = None, *, after: int = 0, entries_max: int = 1000, bytes_max: int | None = None
    ) -> list[StoredEntry]:
        """
        List entries in local arrival order; of all stores if none is named.

        Stops before their payloads exceed ``bytes_max``, but not before the first.
        """
        number = None if store is None else self.store_number(store)
        return [self.stored(row) for row in self.rows_after(number, after, entries_max, bytes_max=bytes_max)]

    def versions(self, store: str, primary_key: str) -> list[Version]:
        """List all versions of a key that are held, superseded and losing ones included, by entry id."""
        schema = self.registry.schema(store)
        rows = self.version_rows(self.store_number(store), primary_key)
        return [self.version_from(schema, row) for row in rows]

    def heads(self, store: str, primary_key: str) -> list[Version]:
        """List the versions of a key that nothing supersedes, by entry id; the policy chooses among them."""
        return self.heads_by(self.registry.schema(store), primary_key)

    def heads_by(self, schema: StoreSchema, primary_key: str) -> list[Version]:
        """List the heads of a key of a store that need not be registered."""
        number = self.store_number(schema.name)
        state = self.key_state(number, primary_key) or NO_STATE
        return [self.version_from(schema, self.expect_row(number, head.id)) for head in state.heads]

    def conflicts(self, store: str) -> list[Conflict]:
        """List the keys of a store with several heads that say different things: its open conflicts."""
        schema, number = self.registry.schema(store), self.store_number(store)
        found = ((key, self.heads(store, key)) for key in self.conflicted_keys(number))
        return [projection.conflict_of(schema, key, heads) for key, heads in found if are_competing(schema, heads)]

    def search_text(
        self,
        store: str,
        terms: Sequence[TextTerm],
        *,
        scope: str | None = None,
        order: TextOrder = TextOrder.NEWEST,
        after: TextHit | None = None,
        limit: int,
    ) -> list[TextHit]:
        """
        List entries whose text has all terms; only in a ``read``.

        Args:
            store: Where to look.
            terms: See :func:`~agentlayers.journal.text_search.parse_terms`; without any nothing is found.
            scope: Only texts of this scope.
            order: What comes first.
            after: Continue behind this one.
            limit: At most so many.

        Raises:
            StateError: This is a transaction that writes.
        """
        if not self.read_only:
            raise StateError("search_text sees what is committed; call it in a read()")
        if not terms or limit <= 0:
            return []
        number = self.store_number(store)
        return self.texts_with(number, terms, scope=scope, order=order, after=after, rows_max=limit)

    def unapplied(self, store: str) -> list[UnappliedEntry]:
        """List the entries of a store whose projection failed, with the error."""
        rows = {row.position: row for row in self.unapplied_rows(self.store_number(store))}
        return [
            UnappliedEntry(self.stored(row), rows[row.position].error, rows[row.position].attempts)
            for row in self.rows_at(list(rows))
        ]

    def retry_unapplied(self, store: str, *, after: int = 0, entries_max: int) -> int | None:
        """
        Project unapplied entries of a store again.

        Args:
            store: The store.
            after: Only those behind this position.
            entries_max: At most so many.

        Returns:
            The position to go on behind; :obj:`None` if there are no more.
        """
        self.require_writable()
        return projection.retry_unapplied(self, self.registry.schema(store), after=after, entries_max=entries_max)

    # -- remotes -------------------------------------------------------------------------------------------
    def write_from_remote(
        self,
        store: str,
        remote_id: bytes,
        entries: Sequence[RemoteEntry],
        *,
        through: int | None = None,
        since: int | None = None,
    ) -> RemoteWriteResult:
        """
        See :meth:`EventJournal.write_from_remote`.

        Args:
            store: The store.
            remote_id: The remote.
            entries: What it sent.
            through: Where the cursor moves.
            since: Where it stood when whoever reports began to read. If it is below that by now, another connection or
                process set it back to read again from there, and it is left to that one.
        """
        self.require_writable()
        return replication.write_from_remote(self, store, remote_id, entries, through=through, since=since)

    def uncommitted(
        self,
        store: str,
        remote_id: bytes,
        *,
        after: int = 0,
        entries_max: int,
        bytes_max: int,
        relayed: bool | None = None,
    ) -> list[StoredEntry]:
        """See :meth:`EventJournal.uncommitted`."""
        return replication.uncommitted(
            self, store, remote_id, after=after, entries_max=entries_max, bytes_max=bytes_max, relayed=relayed
        )

    def acknowledge(
        self,
        store: str,
        remote_id: bytes,
        acknowledgement: Acknowledgement,
        *,
        through: int | None = None,
        since: int | None = None,
    ) -> None:
        """See :meth:`EventJournal.acknowledge`; ``since`` is that of :meth:`write_from_remote`."""
        self.require_writable()
        replication.acknowledge(self, store, remote_id, acknowledgement, through=through, since=since)

    def remote_state(self, store: str, remote_id: bytes) -> RemoteState:
        """See :meth:`EventJournal.remote_state`."""
        return replication.remote_state(self, store, remote_id)

    def reset_remote(self, store: str, remote_id: bytes, *, incarnation: bytes) -> None:
        """See :meth:`EventJournal.reset_remote`."""
        self.require_writable()
        replication.reset_remote(self, store, remote_id, incarnation=incarnation)

    def remotes(self, store: str) -> list[Remote]:
        """List the remotes a store was synced with, retired ones included."""
        return replication.remotes(self, store)

    def remember_remote(
        self, store: str, remote_id: bytes, *, url: str | None = None, relay: RelayMode | None = None
    ) -> None:
        """
        Note where a remote was reached; another remote seen at the same address before is retired.

        A retired remote no longer holds compaction back. Contact with it makes it current again.

        Args:
            store: The store.
            remote_id: The remote, 16 bytes.
            url: Its address, if known.
            relay: Whether it is sent what came from other remotes; :obj:`None` leaves that as it was (never, at first).
        """
        self.require_writable()
        replication.remember_remote(self, store, remote_id, url=url, relay=relay)

    def retire_remote(self, store: str, remote_id: bytes) -> bool:
        """Let compaction disregard a remote; :obj:`False` when it is not known."""
        self.require_writable()
        return replication.retire_remote(self, store, remote_id)

    def renew_replica_id(self) -> str:
        """
        Take a new name in causal summaries, as a restored or copied journal must; returns it.

        Done by itself as soon as a version arrives that was written under our name elsewhere.
        """
        self.require_writable()
        self.registry.renew_replica_id(self)
        logger.warning("replica_id_renewed", replica_id=self.registry.replica_id)
        return self.registry.replica_id

    def quarantine(
        self, store: str, remote_id: bytes, entries: Sequence[UnreadableEntry], *, key_check: bytes
    ) -> QuarantineResult:
        """
        Keep aside what a remote sent that is no usable entry, such as what does not decrypt.

        Args:
            store: The store it came for.
            remote_id: Where it came from.
            entries: What could not be read. Those held, compacted or kept aside already are left out.
            key_check: Tells the key they could not be opened with from other keys, and nothing else of it.

        Returns:
            Which were kept, and which there was no room for: at most ``limits.QUARANTINE_ENTRIES_MAX`` of a store
            are kept, of ``limits.QUARANTINE_BYTES_MAX`` together. Of the others the journal knows from where to read
            them again: :meth:`return_to_not_kept`.
        """
        self.require_writable()
        return replication.quarantine_unreadable(self, store, remote_id, entries, key_check=key_check)

    def return_to_not_kept(self, store: str, remote_id: bytes, *, key_check: bytes) -> bool:
        """
        Move the cursor of a remote back to the first entry that was not kept aside, if it was for another key.

        Args:
            store: The store.
            remote_id: The remote.
            key_check: Tells the key that entries are opened with now.

        Returns:
            Whether it was moved. What was not kept is counted anew from here on.
        """
        self.require_writable()
        return replication.return_to_not_kept(self, store, remote_id, key_check=key_check)

    def release_quarantined(self, store: str, entry_ids: Iterable[bytes]) -> None:
        """Forget that these were kept aside: they are usable after all, and whoever asks writes them now."""
        self.require_writable()
        quarantine.release(self, self.store_number(store), entry_ids)

    def quarantined(self, store: str, *, after: bytes = b"", entries_max: int | None = None) -> list[QuarantinedEntry]:
        """List what was kept aside of a store; ``entries_max`` of it behind an id, in an order of the journal's own."""
        return quarantine.quarantined(self, store, after=after, entries_max=entries_max)

    def count_not_kept(self, store: str) -> int:
        """Count what had to be kept aside of a store and there was no room for; what came twice counts twice."""
        return quarantine.count_not_kept(self, store)

    # -- shared by the modules beside this one ---------------------------------------------------------------
    def stored(self, row: EntryRow) -> StoredEntry:
        """Return a row as callers see it."""
        return StoredEntry(
            row.position,
            self.store_name(row.store),
            _entry(row),
            row.origin == 0,
            bool(row.applied),
        )

    def expect_row(self, store: int, entry_id: bytes) -> EntryRow:
        """
        Return a row that the journal's own bookkeeping names.

        Raises:
            StorageCorruptionError: It is not there.
        """
        row = self.find_row(store, entry_id)
        if row is None:
            raise StorageCorruptionError(
                backend="journal",
                operation="read",
                reason=f"entry {entry_id.hex()} is a head but is not held",
            )
        return row

    def version_from(self, schema: StoreSchema, row: EntryRow) -> Version:
        """Decode a keyed row."""
        return version_of(
            row.id,
            row.event,
            decode_payload(row.payload),
            is_deletion=row.event in schema.deletions,
        )


def _entry(row: EntryRow) -> Entry:
    return _new_tuple(Entry, row[2:6])  # the same fields in the same order, at half the cost


def _checked_text(text: str) -> str:
    try:
        text.encode()
    except (UnicodeEncodeError, AttributeError) as error:
        raise UsageError(f"{text!r} is not valid Unicode text, so it is no event or primary key") from error
    return text


def _encode(payload: Mapping[str, Any], event: str) -> bytes:
    encoded = encode_payload(payload)
    if len(encoded) > PAYLOAD_BYTES_MAX:
        raise UsageError(
            f"the payload of {event!r} takes {len(encoded)} bytes, at most {PAYLOAD_BYTES_MAX} fit into one entry; "
            "store large content as an artifact"
        )
    return encoded
