"""
Named readers of a store that must see every entry: how far each has got, kept in the journal beside the entries.

Compaction leaves what a consumer has yet to handle, as it leaves what a remote has not acknowledged. Positions are
never used again, so a place stays right whatever is compacted, imported or rebuilt. It belongs to no read model: a
replay neither needs nor touches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agentlayers.errors import MalformedMessageError, StorageCorruptionError
from agentlayers.key_value.keys import pack_key, prefix_end
from agentlayers.protocol.payload import decode_payload, encode_payload

if TYPE_CHECKING:
    from agentlayers.journal.primitives import EntryRow
    from agentlayers.journal.transaction import JournalTransaction

__all__ = [
    "Consumer",
    "SetAside",
    "awaited",
    "consumer_named",
    "consumers_of",
    "forget_consumer",
    "put_consumer",
    "put_set_aside",
    "set_aside_of",
]

_CONSUMERS: Final = "@consumers"
_SET_ASIDE: Final = "@set_aside"


class Consumer(NamedTuple):
    """
    How far one reader has got.

    Attributes:
        store: Whose entries it reads.
        name: The reader.
        position: It has handled everything up to here.
        events: Tags it handles; empty for all.
    """

    store: str
    name: str
    position: int
    events: frozenset[str] = frozenset()


class SetAside(NamedTuple):
    """
    An entry a reader could not handle and left behind.

    Attributes:
        position: The entry's place in local order.
        error: Type and text of the last failure.
        attempts: How often it was tried.
    """

    position: int
    error: str
    attempts: int


def consumer_named(tx: JournalTransaction, store: str, name: str) -> Consumer | None:
    """Return how far a reader has got; :obj:`None` if the journal knows none of this name."""
    value = tx.get(pack_key(_CONSUMERS, store, name))
    return None if value is None else _decoded(store, value)


def consumers_of(tx: JournalTransaction, store: str) -> list[Consumer]:
    """List the readers of a store, by name."""
    start = pack_key(_CONSUMERS, store)
    return [_decoded(store, value) for _key, value in tx.scan(start, prefix_end(start))]


def put_consumer(tx: JournalTransaction, consumer: Consumer) -> None:
    """Note how far a reader has got."""
    fields = {"name": consumer.name, "position": consumer.position, "events": sorted(consumer.events)}
    tx.put(pack_key(_CONSUMERS, consumer.store, consumer.name), encode_payload(fields))


def forget_consumer(tx: JournalTransaction, store: str, name: str) -> bool:
    """Forget a reader and what it set aside, so that compaction waits for it no longer; tell if it was known."""
    key = pack_key(_CONSUMERS, store, name)
    is_known = tx.get(key) is not None
    tx.delete(key)
    for one in set_aside_of(tx, store, name):
        put_set_aside(tx, store, name, one.position, None)
    return is_known


def set_aside_of(tx: JournalTransaction, store: str, name: str) -> list[SetAside]:
    """List what a reader set aside, in local order."""
    start = pack_key(_SET_ASIDE, store, name)
    found = []
    for _key, value in tx.scan(start, prefix_end(start)):
        fields = _fields(value)
        found.append(SetAside(int(fields["position"]), str(fields["error"]), int(fields["attempts"])))
    return found


def put_set_aside(tx: JournalTransaction, store: str, name: str, position: int, noted: SetAside | None) -> None:
    """Note an entry that a reader leaves behind, or with :obj:`None` that it is done with it."""
    key = pack_key(_SET_ASIDE, store, name, position)
    if noted is None:
        tx.delete(key)
    else:
        tx.put(key, encode_payload(noted._asdict()))


def awaited(tx: JournalTransaction, store: str, rows: Sequence[EntryRow]) -> set[int]:
    """Return the positions of those rows that a reader of their store has yet to handle."""
    found: set[int] = set()
    for consumer in consumers_of(tx, store):
        found.update(
            row.position
            for row in rows
            if row.position > consumer.position and (not consumer.events or row.event in consumer.events)
        )
    return found


def _decoded(store: str, value: bytes) -> Consumer:
    fields = _fields(value)
    return Consumer(store, str(fields["name"]), int(fields["position"]), frozenset(map(str, fields["events"])))


def _fields(value: bytes) -> dict[str, Any]:
    try:
        return decode_payload(value)
    except MalformedMessageError as error:
        raise StorageCorruptionError(
            backend="journal", operation="read", reason=f"a consumer's place: {error}"
        ) from error
