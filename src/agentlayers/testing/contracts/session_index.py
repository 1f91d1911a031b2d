"""
What a session index does on any journal.

Derive a class, give it a ``journal`` fixture that returns a journal that is not open yet, and collect it
with pytest (``asyncio_mode = "auto"``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import permutations

import pytest

from agentlayers.errors import UsageError
from agentlayers.journal.event_journal import EventJournal
from agentlayers.storage.session_index import (
    Direction,
    SessionIndexStore,
    SessionMeta,
    SessionOrder,
)

__all__ = ["SessionIndexContract"]


def _ids(sessions: list[SessionMeta]) -> list[str]:
    return [session.session_id for session in sessions]


class SessionIndexContract:
    """One behaviour for each test."""

    @pytest.fixture
    def journal(self) -> EventJournal:
        """Return a new journal, not open yet."""
        raise NotImplementedError

    @pytest.fixture
    async def index(self, journal: EventJournal) -> AsyncIterator[SessionIndexStore]:
        """Open a session index on the journal."""
        async with journal, SessionIndexStore(journal) as index:
            yield index

    async def test_touching_adds_a_session(self, index: SessionIndexStore) -> None:
        """What was touched is found."""
        meta = await index.touch("s", created_at_ms=1, updated_at_ms=2)

        assert meta == SessionMeta("s", 1, 2)
        assert await index.get("s") == meta
        assert await index.list() == [meta]
        assert await index.list_ids() == ["s"]

    async def test_an_unknown_session_is_none(self, index: SessionIndexStore) -> None:
        """Asking for what is not there is no error."""
        assert await index.get("s") is None
        assert await index.remove("s") is False

    async def test_touching_in_any_order_gives_the_same(self, index: SessionIndexStore) -> None:
        """The creation time only moves back, the update time only forward."""
        for number, order in enumerate(permutations([3, 1, 2])):
            for at_ms in order:
                await index.touch(f"s{number}", updated_at_ms=at_ms)
            assert await index.get(f"s{number}") == SessionMeta(f"s{number}", 1, 3)

    @pytest.mark.parametrize("order_by", ["updated_at", "created_at"])
    @pytest.mark.parametrize("direction", ["asc", "desc"])
    async def test_pages_cover_the_index_once_in_order(
        self, index: SessionIndexStore, order_by: SessionOrder, direction: Direction
    ) -> None:
        """Ties are broken by session id in the same direction; next_cursor ends the last page."""
        for number, name in enumerate("abcdefg"):
            at_ms = number // 2
            updated = at_ms if order_by == "updated_at" else 9
            await index.touch(name, created_at_ms=min(at_ms, updated), updated_at_ms=updated)
        cursor, pages = None, []
        for _page in range(4):
            page = await index.list_page(order_by=order_by, direction=direction, limit=3, cursor=cursor)
            pages.append(_ids(list(page.items)))
            cursor = page.next_cursor
            if cursor is None:
                break

        assert [len(page) for page in pages] == [3, 3, 1]
        found = [name for page in pages for name in page]
        assert found == list("abcdefg" if direction == "asc" else "gfedcba")

    async def test_the_session_touched_last_comes_first(self, index: SessionIndexStore) -> None:
        """The default order is that of a list of recent conversations."""
        for number, name in enumerate("abc"):
            await index.touch(name, updated_at_ms=number)
        await index.touch("a", updated_at_ms=9)

        assert _ids(await index.list()) == ["a", "c", "b"]
        assert _ids(await index.list(limit=1)) == ["a"]
        assert _ids(await index.list(limit=2, offset=1)) == ["c", "b"]
        assert await index.list(limit=0) == []
        assert await index.list(limit=-1) == []

    async def test_a_cursor_of_another_order_is_refused(self, index: SessionIndexStore) -> None:
        """Silently listing from a wrong place would skip sessions."""
        meta = await index.touch("s")
        with pytest.raises(UsageError, match="another listing"):
            await index.list(order_by="created_at", cursor=meta.cursor("updated_at"))

    async def test_a_removed_session_is_gone(self, index: SessionIndexStore) -> None:
        """Removing leaves nothing behind, in no order."""
        await index.touch("a", updated_at_ms=1)
        await index.touch("b", updated_at_ms=2)

        assert await index.remove("a") is True
        assert _ids(await index.list()) == ["b"]
        assert _ids(await index.list(order_by="created_at")) == ["b"]
        assert await index.list_ids() == ["b"]
        assert await index.get("a") is None

    @pytest.mark.parametrize("at_ms", [-1, 2**53, True, 1.5])
    async def test_a_time_that_is_none_is_refused(self, index: SessionIndexStore, at_ms: int) -> None:
        """Times are whole milliseconds."""
        with pytest.raises(UsageError, match="milliseconds"):
            await index.touch("s", updated_at_ms=at_ms)

    async def test_a_session_stays_until_its_last_holder_leaves(self, index: SessionIndexStore) -> None:
        """Purging one store must not hide what another one has."""
        for holder in ("chat_history", "artifacts"):
            await index.journal.transact(
                lambda tx, name=holder: index.touch_in(tx, "s", updated_at_ms=1, holder=name)  # type: ignore[misc]
            )
        await index.journal.transact(lambda tx: index.release_in(tx, "s", "chat_history"))

        assert await index.list_ids() == ["s"]
        await index.journal.transact(lambda tx: index.release_in(tx, "s", "artifacts"))
        assert await index.list_ids() == []
