"""Where a replay finds entries, and the read models it is compared with: a moment of a file, or of any open journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.registry import JournalRegistry
from agentlayers.journal.transaction import JournalTransaction

__all__ = ["IndexedText", "OpenJournalSource", "ReplaySource"]


class IndexedText(NamedTuple):
    """
    What an entry is found by.

    Attributes:
        entry_id: The entry.
        text: Its text.
        scope: What searches can be limited to.
    """

    entry_id: bytes
    text: str
    scope: str


class ReplaySource(Protocol):
    """One consistent moment of a journal; nothing of it is changed."""

    @property
    def tx(self) -> JournalTransaction:
        """Reads it."""

    @property
    def registry(self) -> JournalRegistry:
        """The stores that are replayed, and how."""

    @property
    def known_stores(self) -> tuple[str, ...]:
        """Stores whose read models are compared."""

    @property
    def has_index(self) -> bool:
        """Whether the stores keep the session index with them."""

    def listed_keys(self, store: int) -> Iterator[str]:
        """Iterate over the keys something is noted of, also those without entries, where they can be listed."""

    def texts(self, store: int) -> Iterator[IndexedText]:
        """Iterate over the texts that entries are found by, where they can be listed."""

    def text_of(self, store: int, entry_id: bytes) -> IndexedText | None:
        """Return the text one entry is found by."""

    @property
    def lists_texts(self) -> bool:
        """Whether texts can be listed and looked up, and so compared."""


class OpenJournalSource:
    """
    A moment of an open journal of any kind, read in one of its reads.

    Keys without entries and texts cannot be listed there, so they are not compared.

    Args:
        tx: The read.
        schemas: The stores that are replayed.
        has_index: Whether the stores keep the session index with them.
    """

    lists_texts = False

    def __init__(self, tx: JournalTransaction, schemas: Mapping[str, StoreSchema], *, has_index: bool) -> None:
        self.tx, self.has_index = tx, has_index
        self.registry = JournalRegistry(clock=tx.registry.clock, random=tx.registry.random)
        self.registry.schemas.update(schemas)
        self.registry.replica_id = tx.registry.replica_id
        self.known_stores = tuple(name for name in schemas if tx.store_number(name))

    def listed_keys(self, store: int) -> Iterator[str]:  # noqa: ARG002
        """List nothing."""
        return iter(())

    def texts(self, store: int) -> Iterator[IndexedText]:  # noqa: ARG002
        """List nothing."""
        return iter(())

    def text_of(self, store: int, entry_id: bytes) -> IndexedText | None:  # noqa: ARG002
        """Find nothing."""
        return None
