"""A journal that opens and closes its key-value store with itself, for tests that open only the journal."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from agentlayers.journal.key_value import KeyValueJournal
from agentlayers.key_value import KeyValueStore, MemoryKeyValueStore
from helpers.key_value_journal_check import check_indexes


class LastingMemoryStore(MemoryKeyValueStore):
    """Keeps what it holds when it is closed, as a store on a disk does."""

    async def __aenter__(self) -> Self:
        kept = self.__dict__.pop("kept", None)
        await super().__aenter__()
        self._pairs = self._pairs if kept is None else kept
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__dict__["kept"] = self._pairs
        await super().__aexit__(kind, error, traceback)


class JournalWithStore(KeyValueJournal):
    """A journal that is the only user of its store; closing it checks what it leaves there."""

    def __init__(self, store: KeyValueStore | None = None, **named: Any) -> None:
        self.key_value_store = store or LastingMemoryStore()
        super().__init__(self.key_value_store, **named)

    async def __aenter__(self) -> Self:
        await self.key_value_store.__aenter__()
        try:
            return await super().__aenter__()
        except BaseException:
            await self.key_value_store.__aexit__(None, None, None)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await super().__aexit__(kind, error, traceback)
            if error is None:
                await check_indexes(self.key_value_store)
        finally:
            await self.key_value_store.__aexit__(kind, error, traceback)
