"""Run a reaction: one task that hands committed entries to its handler and keeps its place in the journal."""

from __future__ import annotations

import asyncio
import random as random_module
from contextlib import aclosing, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from agentlayers.errors import MalformedMessageError, StateError, StorageError
from agentlayers.eventlog.reaction import Reaction, ReactionState, ReactionStatus
from agentlayers.eventlog.typed_event import TypedEntry, entry_value
from agentlayers.journal.consumer import (
    Consumer,
    SetAside,
    consumer_named,
    put_consumer,
    put_set_aside,
    set_aside_of,
)
from agentlayers.journal.entry import StoredEntry
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.limits import JOURNAL_PAGE_BYTES_MAX
from agentlayers.logs import get_logger

if TYPE_CHECKING:
    from agentlayers.eventlog.event_log import EventLog

__all__ = ["RunningReaction"]

logger = get_logger(__name__)

_PAGE_ENTRIES: Final = 256
_ERROR_TEXT_MAX: Final = 500


class RunningReaction:
    """
    A reaction at work; an async context manager.

    Entering it notes the reaction in the journal, so that compaction leaves what it has yet to handle; leaving it
    ends its task, and what was being handled is handled again at the next start.

    Args:
        log: The store whose entries it handles, open.
        reaction: What to do.
        random: Source of the jitter of retries.
    """

    def __init__(self, log: EventLog, reaction: Reaction, *, random: random_module.Random | None = None) -> None:
        self.log, self.reaction = log, reaction
        self._random = random or random_module.Random()
        self._events = {event.tag: event for event in reaction.events}
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._progress = asyncio.Condition()
        self._state = ReactionState.CLOSED
        self._noted = self._position = self._through = 0
        self._handled = self._attempts = self._set_aside = 0
        self._error, self._is_unreadable = "", False

    # -- life -----------------------------------------------------------------------------------------------
    async def __aenter__(self) -> Self:
        self.log.claim_reaction(self.reaction.name)
        try:
            self._position = self._noted = await self.log.transact(self._begin)
            self._set_aside = len(await self.set_aside())
        except BaseException:
            self.log.release_reaction(self.reaction.name)
            raise
        self._through = 0
        self._state = ReactionState.WORKING
        name = f"reaction {self.log.store}/{self.reaction.name}"
        self._task = asyncio.get_running_loop().create_task(self._run(), name=name)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self.log.release_reaction(self.reaction.name)

    def _begin(self, tx: JournalTransaction) -> int:
        known = consumer_named(tx, self.log.store, self.reaction.name)
        first = tx.next_position() - 1 if self.reaction.start == "now" else 0
        position = first if known is None else known.position
        self._put_place(tx, position)
        return position

    # -- for its owner --------------------------------------------------------------------------------------
    def status(self) -> ReactionStatus:
        """Tell how the reaction is doing."""
        return ReactionStatus(
            self.reaction.name,
            self._state,
            self._position,
            self._handled,
            self._attempts,
            self._error,
            self._set_aside,
        )

    async def set_aside(self) -> list[SetAside]:
        """List the entries that were set aside, with what went wrong."""
        return await self.log.read(partial(set_aside_of, store=self.log.store, name=self.reaction.name))

    def resume(self) -> None:
        """Try the present entry again now, instead of waiting for the next attempt or for ever."""
        self._wake.set()

    async def caught_up(self) -> ReactionStatus:
        """
        Wait until everything that is committed now was handled or set aside.

        Returns:
            The status then; if the reaction stops or is closed before, the one that says so.
        """
        target = await self.log.read(lambda tx: tx.next_position() - 1)
        async with self._progress:
            await self._progress.wait_for(
                lambda: self._through >= target or self._state in {ReactionState.STOPPED, ReactionState.CLOSED}
            )
        return self.status()

    # -- its task -------------------------------------------------------------------------------------------
    async def _run(self) -> None:
        try:
            await self._retry_set_aside()
            async with aclosing(self.log.journal.commits(self.log.store)) as commits:
                async for _last in commits:
                    while not await self._work_off_page():
                        pass
        except (StateError, StorageError) as error:
            # The journal was closed under it, or cannot be read or written: nothing is lost, it goes on at the next
            # start.
            self._error = _text_of(error)
            logger.warning("reaction_ended", store=self.log.store, reaction=self.reaction.name, reason=str(error))
        finally:
            self._state = ReactionState.CLOSED
            await self._tell()

    async def _work_off_page(self) -> bool:
        page, last = await self.log.read(self._page)
        for stored in page:
            if not self._events or stored.entry.event in self._events:
                await self._settle(stored)
            self._position = stored.position
            if self._position - self._noted >= _PAGE_ENTRIES:
                await self._note_place()
        if not page:
            self._through = last
            await self._tell()
        return not page

    def _page(self, tx: JournalTransaction) -> tuple[list[StoredEntry], int]:
        last = tx.next_position() - 1
        page = tx.entries(
            self.log.store, after=self._position, entries_max=_PAGE_ENTRIES, bytes_max=JOURNAL_PAGE_BYTES_MAX
        )
        return page, last

    async def _settle(self, stored: StoredEntry) -> None:
        """Handle an entry or set it aside; returns when it is one of the two, and the journal knows."""
        attempts = 0
        while not await self._attempt(stored):
            attempts += 1
            self._attempts = attempts
            delay = self._delay(attempts)
            if delay is None and self.reaction.when_exhausted == "set_aside":
                await self._leave_behind(SetAside(stored.position, self._error, attempts))
                break
            await self._pause(delay)
            if delay is None:
                attempts = 0
        else:
            self._handled += 1
            await self._note_place(stored.position)
        self._attempts, self._error = 0, ""
        self._state = ReactionState.WORKING

    async def _attempt(self, stored: StoredEntry) -> bool:
        try:
            value = self._typed(stored)
            await self.reaction.handler(value)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises
            self._error = _text_of(error)
            self._is_unreadable = isinstance(error, MalformedMessageError)
            logger.warning(
                "reaction_failed",
                store=self.log.store,
                reaction=self.reaction.name,
                entry_id=stored.entry.id.hex(),
                error=type(error).__name__,
            )
            return False
        return True

    def _typed(self, stored: StoredEntry) -> TypedEntry[Any]:
        value = entry_value(self._events.get(stored.entry.event), stored.entry)
        return TypedEntry(value, stored.entry, stored.position, is_local=stored.is_local)

    def _delay(self, attempts: int) -> float | None:
        # Reading the same bytes again gives the same; only another release can help.
        return None if self._is_unreadable else self.reaction.retry.delay_seconds(attempts, self._random)

    async def _pause(self, delay: float | None) -> None:
        self._state = ReactionState.STOPPED if delay is None else ReactionState.RETRYING
        if delay is None:
            logger.error("reaction_stopped", store=self.log.store, reaction=self.reaction.name)
        await self._tell()
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._wake.wait()

    async def _leave_behind(self, noted: SetAside) -> None:
        def work(tx: JournalTransaction) -> None:
            put_set_aside(tx, self.log.store, self.reaction.name, noted.position, noted)
            self._put_place(tx, noted.position)

        await self.log.transact(work)
        self._noted = noted.position
        self._set_aside += 1
        logger.error(
            "reaction_set_aside",
            store=self.log.store,
            reaction=self.reaction.name,
            position=noted.position,
        )

    async def _retry_set_aside(self) -> None:
        """Try what was set aside once more: this release may know what an earlier one did not."""
        for noted in await self.set_aside():
            stored = await self.log.read(partial(_entry_at, position=noted.position))
            is_done = stored is None or await self._attempt(stored)
            again = None if is_done else SetAside(noted.position, self._error, noted.attempts + 1)
            store, name = self.log.store, self.reaction.name
            note = partial(put_set_aside, store=store, name=name, position=noted.position, noted=again)
            await self.log.transact(note)
            self._set_aside -= is_done
        self._error = ""

    # -- its place ------------------------------------------------------------------------------------------
    def _put_place(self, tx: JournalTransaction, position: int) -> None:
        known = consumer_named(tx, self.log.store, self.reaction.name)
        if known is not None:
            # Another process may run the same reaction; what one of them handled is handled.
            position = max(position, known.position)
        put_consumer(tx, Consumer(self.log.store, self.reaction.name, position, frozenset(self._events)))

    async def _note_place(self, position: int | None = None) -> None:
        place = self._position if position is None else position
        await self.log.transact(partial(self._put_place, position=place))
        self._noted = place

    async def _tell(self) -> None:
        async with self._progress:
            self._progress.notify_all()


def _entry_at(tx: JournalTransaction, position: int) -> StoredEntry | None:
    return next((tx.stored(row) for row in tx.rows_at([position])), None)


def _text_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_ERROR_TEXT_MAX]
