"""
What an artifact store does on any journal.

Derive a class, give it a ``journal`` fixture that returns a journal that is not open yet, and collect it
with pytest (``asyncio_mode = "auto"``).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentlayers.errors import UsageError
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.event_journal import EventJournal
from agentlayers.limits import ARTIFACT_CHUNK_BYTES, ARTIFACT_INLINE_BYTES_MAX
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.artifacts import ArtifactStore

__all__ = ["ArtifactStoreContract"]


def _artifact(name: str, content: str | bytes = "text", **fields: Any) -> ArtifactRecord:
    return ArtifactRecord(id=name, session_id="s", kind="tool_result", content=content, **fields)


def _names(records: list[ArtifactRecord]) -> list[str]:
    return [record.id for record in records]


class ArtifactStoreContract:
    """One behaviour for each test."""

    @pytest.fixture
    def journal(self) -> EventJournal:
        """Return a new journal, not open yet."""
        raise NotImplementedError

    @pytest.fixture
    async def artifacts(self, journal: EventJournal) -> AsyncIterator[ArtifactStore]:
        """Open an artifact store on the journal."""
        async with journal, ArtifactStore(journal, Identity.generate()) as artifacts:
            yield artifacts

    @pytest.mark.parametrize("content", ["", "text äöü", b"", b"\x00\xff\x01"])
    async def test_what_was_put_is_got(self, artifacts: ArtifactStore, content: str | bytes) -> None:
        """Content comes back in type and value, with every field."""
        put = await artifacts.put(
            _artifact(
                "a",
                content,
                content_type="text/plain",
                tool_name="Read",
                tool_use_id="toolu_1",
                hook_event="PostToolUse",
                created_at_ms=5,
                metadata={"path": "/x", "sizes": [1, 2]},
            )
        )

        assert await artifacts.get("a") == put
        assert await artifacts.get("a", "s") == put
        assert (put.content, put.created_at_ms) == (content, 5)

    async def test_an_unknown_artifact_is_none(self, artifacts: ArtifactStore) -> None:
        """Asking for what is not there is no error."""
        assert await artifacts.get("a") is None
        assert await artifacts.list("s") == []
        assert await artifacts.delete("a") is False

    async def test_a_second_put_replaces_the_first_in_its_place(self, artifacts: ArtifactStore) -> None:
        """Overwriting keeps the artifact's place in the session and its former version."""
        await artifacts.put(_artifact("a", "old", created_at_ms=1))
        await artifacts.put(_artifact("b", created_at_ms=2))
        await artifacts.put(_artifact("a", "new"))

        assert _names(await artifacts.list("s")) == ["a", "b"]
        assert [record.content for record in await artifacts.list("s")] == ["new", "text"]
        versions = await artifacts.versions("a")
        assert [version.record.content for version in versions if version.record] == ["old", "new"]
        assert [version.is_head for version in versions] == [False, True]
        assert await artifacts.conflicts() == []

    async def test_a_deleted_artifact_is_gone_and_can_come_back(self, artifacts: ArtifactStore) -> None:
        """A deletion is a version like any other: the next put supersedes it."""
        await artifacts.put(_artifact("a", "old"))

        assert await artifacts.delete("a") is True
        assert await artifacts.get("a") is None
        assert await artifacts.list("s") == []
        assert await artifacts.delete("a") is False
        assert [version.record is None for version in await artifacts.versions("a", "s")] == [
            False,
            True,
        ]
        await artifacts.put(_artifact("a", "new"))
        shown = await artifacts.get("a")
        assert shown is not None
        assert shown.content == "new"

    async def test_one_name_in_two_sessions_is_two_artifacts(self, artifacts: ArtifactStore) -> None:
        """Names belong to their session; without one the last written is meant."""
        await artifacts.put(_artifact("a", "first"))
        await artifacts.put(ArtifactRecord(id="a", session_id="t", kind="file", content="second", created_at_ms=1))
        shown = await artifacts.get("a")
        first = await artifacts.get("a", "s")

        assert shown is not None
        assert first is not None
        assert (shown.content, first.content) == ("second", "first")
        assert await artifacts.delete("a", "t") is True
        assert await artifacts.get("a") == first

    async def test_an_artifact_cannot_take_the_key_of_another(self, artifacts: ArtifactStore) -> None:
        """The wire's key joins session and name with a colon, so two pairs may share one."""
        await artifacts.put(ArtifactRecord(id="c", session_id="a:b", kind="file", content="first"))
        with pytest.raises(UsageError, match="choose another id"):
            await artifacts.put(ArtifactRecord(id="b:c", session_id="a", kind="file", content="second"))

        assert _names(await artifacts.list("a:b")) == ["c"]
        assert await artifacts.list("a") == []
        assert await artifacts.get("b:c", "a") is None

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_pages_cover_a_session_once(self, artifacts: ArtifactStore, *, reverse: bool) -> None:
        """Following next_cursor gives every artifact exactly once, and ends."""
        names = [f"artifact-{number}" for number in range(7)]
        for number, name in enumerate(names):
            await artifacts.put(_artifact(name, created_at_ms=number // 2))
        cursor, pages = None, []
        for _page in range(4):
            page = await artifacts.list_page("s", limit=3, cursor=cursor, reverse=reverse)
            pages.append(_names(list(page.items)))
            cursor = page.next_cursor
            if cursor is None:
                break

        assert [len(page) for page in pages] == [3, 3, 1]
        assert [name for page in pages for name in page] == names[:: -1 if reverse else 1]

    async def test_limit_and_offset(self, artifacts: ArtifactStore) -> None:
        """A limit of zero lists nothing; an offset skips."""
        for number in range(4):
            await artifacts.put(_artifact(str(number), created_at_ms=number))

        assert await artifacts.list("s", limit=0) == []
        assert _names(await artifacts.list("s", limit=2, offset=1)) == ["1", "2"]
        assert await artifacts.list("s", offset=4) == []

    async def test_concurrent_puts_of_one_name_are_no_conflict_on_one_replica(self, artifacts: ArtifactStore) -> None:
        """One replica has one order: each put saw the one before."""
        await asyncio.gather(*(artifacts.put(_artifact("a", str(n))) for n in range(20)))

        assert len(await artifacts.versions("a")) == 20  # one for each put
        assert await artifacts.conflicts() == []
        assert len(await artifacts.list("s")) == 1

    async def test_purging_a_session_deletes_its_artifacts(self, artifacts: ArtifactStore) -> None:
        """All artifacts of the session go, and only those."""
        for name in ("a", "b"):
            await artifacts.put(_artifact(name))
        await artifacts.put(ArtifactRecord(id="c", session_id="t", kind="file", content="x"))
        purged = await artifacts.purge_session("s")

        assert purged == 2  # the two put above
        assert await artifacts.list("s") == []
        assert _names(await artifacts.list("t")) == ["c"]

    @pytest.mark.parametrize("content", ["ü" * ARTIFACT_INLINE_BYTES_MAX, bytes(range(251)) * 9000])
    async def test_large_content_is_got_whole_and_piece_by_piece(
        self, artifacts: ArtifactStore, content: str | bytes
    ) -> None:
        """It travels beside its record, in entries that are not listed."""
        put = await artifacts.put(_artifact("large", content, metadata={"path": "/x"}))
        got = await artifacts.get("large")
        (listed,) = await artifacts.list("s")
        pieces = [piece async for piece in artifacts.open("large")]

        assert got == put
        assert got is not None
        assert (got.content, got.metadata, got.is_complete) == (content, {"path": "/x"}, True)
        assert (listed.content, listed.size_bytes, listed.is_complete) == (content[:0], put.size_bytes, True)
        assert len(pieces) > 1
        assert b"".join(pieces) == put.data

    @pytest.mark.parametrize(
        "size", [0, 1, ARTIFACT_INLINE_BYTES_MAX, ARTIFACT_INLINE_BYTES_MAX + 1, 4 * ARTIFACT_CHUNK_BYTES]
    )
    async def test_a_stream_of_any_size_comes_back(self, artifacts: ArtifactStore, size: int) -> None:
        """However it was cut, and whether it fits into its record or not."""
        content = random.Random(size).randbytes(size)

        async def stream() -> AsyncIterator[bytes]:
            for start in range(0, size, 100_000):
                yield content[start : start + 100_000]

        put = await artifacts.put_stream(_artifact("a", b""), stream())
        got = await artifacts.get("a")

        assert (put.chunks is not None) == (size > ARTIFACT_INLINE_BYTES_MAX)
        assert got is not None
        assert (got.content, got.size_bytes) == (content, size)
        assert b"".join([piece async for piece in artifacts.open("a")]) == content
