"""What the contract of a journal is told with: a clock by hand, entries by hand, a small store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pytest

from agentlayers.journal.causality import causal_payload
from agentlayers.journal.conflict_policy import ConflictPolicy, LastWriteWins, Version
from agentlayers.journal.entry import Entry
from agentlayers.journal.entry_id import next_entry_id
from agentlayers.journal.event_journal import EventJournal, StoreSchema
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key
from agentlayers.protocol.payload import decode_payload, encode_payload

__all__ = [
    "OTHER_REMOTE",
    "REMOTE",
    "JournalContractFixtures",
    "ManualClock",
    "Medium",
    "entry_at",
    "notes",
    "shown",
    "stock_put",
    "their_put",
]

REMOTE = b"remote-1--------"
OTHER_REMOTE = b"remote-2--------"


class Medium(Protocol):
    """Returns a journal over one medium; each name is a medium of its own."""

    def __call__(self, name: str = "a") -> EventJournal:
        """Return a journal that is not open yet."""
        ...


class ManualClock:
    """A clock that goes only when told to."""

    def __init__(self, seconds: float = 1_800_000_000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        """Return the time in seconds since the epoch."""
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Move the clock, in either direction."""
        self.seconds += seconds

    def now_ms(self) -> int:
        """Return milliseconds, as entry ids have them."""
        return int(self.seconds * 1000)


class JournalContractFixtures:
    """The fixtures a backend supplies (``medium``) and one it gets (``clock``)."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        """Drive the time of all journals of a test."""
        return ManualClock()

    @pytest.fixture
    def medium(self, clock: ManualClock) -> Medium:
        """Open journals; a backend replaces this."""
        raise NotImplementedError


def entry_at(
    now_ms: int,
    *,
    event: str = "line",
    primary_key: str = "k",
    payload: Mapping[str, Any] | None = None,
    salt: int = 0,
) -> Entry:
    """Return an entry whose id carries that time."""
    return Entry(next_entry_id(now_ms, b"", salt), event, primary_key, encode_payload(payload or {}))


def their_put(
    now_ms: int,
    value: int,
    *,
    replica: str,
    seen: Mapping[str, bytes] | None = None,
    event: str = "put",
    primary_key: str = "k",
) -> Entry:
    """Return a version as another replica of ours writes it."""
    payload = causal_payload({"v": value}, replica, seen or {})
    return entry_at(now_ms, event=event, primary_key=primary_key, payload=payload, salt=value)


def stock_put(now_ms: int, value: int, *, event: str = "put", primary_key: str = "k") -> Entry:
    """Return a version as a stock peer writes it."""
    return entry_at(now_ms, event=event, primary_key=primary_key, payload={"v": value}, salt=value)


def _project(policy: ConflictPolicy, name: str) -> Callable[[JournalTransaction, Entry, Sequence[Version]], None]:
    def project(tx: JournalTransaction, entry: Entry, heads: Sequence[Version]) -> None:
        if not heads:
            tx.put(pack_key(name, "line", entry.id), entry.payload)
            return
        value = policy.resolve(heads).value
        key = pack_key(name, "value", entry.primary_key)
        if value is None:
            tx.delete(key)
        else:
            tx.put(key, encode_payload(value))

    return project


def notes(name: str = "notes", *, policy: ConflictPolicy | None = None) -> StoreSchema:
    """Return a store of append-only lines, and of values that are put and deleted by key."""
    chosen = policy or LastWriteWins()

    def retract(tx: JournalTransaction, entry: Entry) -> None:
        is_line = entry.event not in ("put", "delete")
        tx.delete(pack_key(name, "line", entry.id) if is_line else pack_key(name, "value", entry.primary_key))

    return StoreSchema(
        name=name,
        keyed_events=frozenset({"put", "delete"}),
        deletions=frozenset({"delete"}),
        unsynced_events=frozenset({"observed"}),
        project=_project(chosen, name),
        retract=retract,
        scope_of=lambda entry: entry.primary_key.partition(":")[0],
        policy=chosen,
    )


def shown(tx: JournalTransaction, primary_key: str, name: str = "notes") -> Mapping[str, Any] | None:
    """Return the visible value of a key."""
    value = tx.get(pack_key(name, "value", primary_key))
    return None if value is None else decode_payload(value)
