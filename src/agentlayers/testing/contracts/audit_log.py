"""
What an audit log does on any journal.

Derive a class, give it a ``journal`` fixture that returns a journal that is not open yet, and collect it
with pytest (``asyncio_mode = "auto"``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentlayers.errors import UnknownEventError, UsageError
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.event_journal import EventJournal
from agentlayers.storage.audit_event import AuditEntry
from agentlayers.storage.audit_log import AuditEventStore

__all__ = ["AuditLogContract"]

_WAIT_SECONDS = 10.0


def _tools(entries: list[AuditEntry]) -> list[str]:
    return [entry.payload["toolName"] for entry in entries]


class AuditLogContract:
    """One behaviour for each test."""

    @pytest.fixture
    def journal(self) -> EventJournal:
        """Return a new journal, not open yet."""
        raise NotImplementedError

    @pytest.fixture
    async def audit(self, journal: EventJournal) -> AsyncIterator[AuditEventStore]:
        """Open an audit log on the journal."""
        async with journal, AuditEventStore(journal, Identity.generate()) as audit:
            yield audit

    async def test_each_event_is_recorded_with_its_fields(self, audit: AuditEventStore) -> None:
        """The typed helpers write the fields of the wire, and leave out what is not set."""
        await audit.tool_use(session_id="s", tool_name="Bash", status="success", tool_use_id="t1", duration_ms=1.5)
        await audit.permission_decision(session_id="s", tool_name="Bash", decision="deny")
        await audit.hook_event(hook="Stop", outcome="success")
        entries = await audit.entries()

        assert [(entry.event, entry.payload) for entry in entries] == [
            (
                "tool_use",
                {
                    "sessionId": "s",
                    "toolName": "Bash",
                    "toolUseId": "t1",
                    "status": "success",
                    "durationMs": 1.5,
                },
            ),
            ("permission_decision", {"sessionId": "s", "toolName": "Bash", "decision": "deny"}),
            ("hook_event", {"hook": "Stop", "outcome": "success"}),
        ]

    async def test_two_uses_of_one_tool_are_two_entries(self, audit: AuditEventStore) -> None:
        """They share a key on the wire, and nothing collapses."""
        for _use in range(2):
            await audit.tool_use(session_id="s", tool_name="Bash", status="start")

        assert _tools(await audit.entries()) == ["Bash", "Bash"]

    async def test_fifty_concurrent_writes_keep_fifty(self, audit: AuditEventStore) -> None:
        """Writes at once do not overwrite each other."""
        await asyncio.gather(
            *(audit.tool_use(session_id="s", tool_name=str(number), status="start") for number in range(50))
        )

        assert sorted(_tools(await audit.entries()), key=int) == [str(n) for n in range(50)]

    async def test_entries_are_found_by_session_and_event(self, audit: AuditEventStore) -> None:
        """Both filters alone and together."""
        await audit.tool_use(session_id="s", tool_name="a", status="start")
        await audit.permission_decision(session_id="s", tool_name="b", decision="allow")
        await audit.tool_use(session_id="t", tool_name="c", status="start")

        assert _tools(await audit.entries("s")) == ["a", "b"]
        assert _tools(await audit.entries(event="tool_use")) == ["a", "c"]
        assert _tools(await audit.entries("s", "tool_use")) == ["a"]
        assert await audit.entries("nobody") == []
        with pytest.raises(UnknownEventError):
            await audit.entries(event="tool_used")

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("event", [None, "tool_use"])
    async def test_pages_cover_the_log_once(self, audit: AuditEventStore, event: str | None, *, reverse: bool) -> None:
        """Following next_cursor gives every entry exactly once, and ends."""
        names = [str(number) for number in range(7)]
        for name in names:
            await audit.tool_use(session_id="s", tool_name=name, status="start")
        cursor, pages = None, []
        for _page in range(4):
            page = await audit.entries_page("s", event, limit=3, cursor=cursor, reverse=reverse)
            pages.append(_tools(list(page.items)))
            cursor = page.next_cursor
            if cursor is None:
                break

        assert [len(page) for page in pages] == [3, 3, 1]
        assert [name for page in pages for name in page] == names[:: -1 if reverse else 1]

    async def test_limits(self, audit: AuditEventStore) -> None:
        """Zero lists nothing; a negative limit is refused."""
        await audit.tool_use(session_id="s", tool_name="a", status="start")

        assert await audit.entries(limit=0) == []
        with pytest.raises(UsageError, match="limit"):
            await audit.entries(limit=-1)

    async def test_follow_yields_what_is_written_after_the_call(self, audit: AuditEventStore) -> None:
        """Following begins at the call, and can be narrowed."""
        await audit.tool_use(session_id="s", tool_name="before", status="start")
        following = audit.follow("s", "tool_use")
        await audit.permission_decision(session_id="s", tool_name="other", decision="allow")
        await audit.tool_use(session_id="t", tool_name="other", status="start")
        await audit.tool_use(session_id="s", tool_name="after", status="start")
        async with asyncio.timeout(_WAIT_SECONDS):
            entry = await anext(following)
        await following.aclose()

        assert _tools([entry]) == ["after"]
