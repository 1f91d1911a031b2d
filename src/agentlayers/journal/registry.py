"""What a journal knows besides its data: its replica, its stores, its observers, its clock."""

from __future__ import annotations

import random as random_module
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from agentlayers.errors import StateError
from agentlayers.file_mark import is_same_mark
from agentlayers.journal.event_journal import Observation, StoreSchema
from agentlayers.logs import get_logger

if TYPE_CHECKING:
    from agentlayers.journal.transaction import JournalTransaction

__all__ = ["JournalRegistry"]

_REPLICA_ID: Final = "replica_id"
_HOME: Final = "replica_home"
logger = get_logger(__name__)
Observer = Callable[["JournalTransaction", Observation], None]


class JournalRegistry:
    """
    Shared by all transactions of one open journal.

    Attributes:
        replica_id: Name of this replica in causal summaries.
        clock: Seconds since the epoch.
        random: Entropy of entry ids; uniqueness, not secrecy, depends on it.
        schemas: The registered stores by name.
        observers: Called inside the transaction for each observation.
        expected_remotes: Store and address of each remote that is to be met.
    """

    def __init__(self, *, clock: Callable[[], float], random: random_module.Random | None) -> None:
        self.replica_id = ""
        self.clock = clock
        self.random = random if random is not None else random_module.Random()
        self.schemas: dict[str, StoreSchema] = {}
        self.observers: list[Observer] = []
        self.expected_remotes: tuple[tuple[str, str], ...] = ()

    def now_ms(self) -> int:
        """Return the clock in whole milliseconds."""
        return int(self.clock() * 1000)

    def load_replica_id(self, tx: JournalTransaction, *, home: str = "") -> None:
        """
        Take the replica's name from the journal, or give it one.

        Args:
            tx: A transaction that may write.
            home: What a copy of the journal does not share with it. A journal that was copied, or restored from a
                copy, takes a new name before it writes: others know no more of a name than the highest entry they
                saw, so with two writers under one name they would take for seen what they never met.
        """
        kept, last_home = tx.get_setting(_REPLICA_ID), (tx.get_setting(_HOME) or b"").decode()
        has_moved = bool(home) and bool(last_home) and not is_same_mark(last_home, home)
        if kept is None or has_moved:
            self.renew_replica_id(tx)
        else:
            self.replica_id = kept.decode()
        if has_moved:
            logger.info("journal_was_copied", replica_id=self.replica_id)
        # The longer of two marks of one file says more about it.
        if has_moved or len(home) > len(last_home):
            tx.put_setting(_HOME, home.encode())

    def renew_replica_id(self, tx: JournalTransaction) -> None:
        """Take a new name, kept with the journal."""
        self.replica_id = self.new_replica_id()
        tx.put_setting(_REPLICA_ID, self.replica_id.encode())

    def new_replica_id(self) -> str:
        """Return a fresh random name: 64 bits, because it travels with every keyed entry."""
        return f"{self.random.getrandbits(64):016x}"

    def schema(self, store: str) -> StoreSchema:
        """
        Return the schema of a registered store.

        Raises:
            StateError: The store is not registered.
        """
        schema = self.schemas.get(store)
        if schema is None:
            known = ", ".join(sorted(self.schemas)) or "none"
            raise StateError(f"store {store!r} is not registered with this journal; registered: {known}")
        return schema

    def add(self, schema: StoreSchema) -> None:
        """
        Declare a store.

        Raises:
            StateError: A store of this name is registered already.
        """
        if schema.name in self.schemas:
            raise StateError(f"store {schema.name!r} is registered with this journal already")
        self.schemas[schema.name] = schema

    def expect_remote(self, store: str, url: str) -> Callable[[], None]:
        """Take note that a remote is to be met; returns how to forget it."""
        expected = (store, url)
        # Replaced and not changed: transactions read it in their own thread.
        self.expected_remotes = (*self.expected_remotes, expected)

        def forget() -> None:
            left = list(self.expected_remotes)
            if expected in left:
                left.remove(expected)
            self.expected_remotes = tuple(left)

        return forget

    def clear(self) -> None:
        """Forget stores and observers, as a journal does when it is closed."""
        self.schemas.clear()
        self.observers.clear()
        self.expected_remotes = ()
