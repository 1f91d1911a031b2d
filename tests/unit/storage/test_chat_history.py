"""Chat history among replicas: order, arrival, retention, purging, and quirks of the reference."""

from __future__ import annotations

import asyncio

import pytest

from agentlayers.errors import UsageError
from agentlayers.journal.compaction import ByCount
from agentlayers.journal.entry import Entry
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.protocol.payload import encode_payload
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.chat_event import SEQUENCE_MAX, ChatEvent
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.session_index import SessionIndexStore, SessionMeta
from agentlayers.storage.storage_config import ChatRetention, Retention, StorageConfig
from helpers.store_replica import IDENTITY, Clock, open_replica

DAY = 86_400.0


def text(content: object) -> dict[str, object]:
    return {"content": content}


def contents(events: list[ChatEvent]) -> list[object]:
    return [event.message["content"] for event in events]


def keeping(**bounds: object) -> StorageConfig:
    chat = {"max_events": None, "max_age_seconds": None, **bounds}
    return StorageConfig(retention=Retention(chat=ChatRetention(**chat)))  # type: ignore[arg-type]


def stock_entry(number: int, *, sequence: object = 1, session: str = "s") -> Entry:
    payload = {
        "sessionId": session,
        "sequence": sequence,
        "timestamp": 5,
        "source": "sdk",
        "message": text(f"stock {number}"),
    }
    entry_id = bytes(6) + bytes([0x70, 0]) + number.to_bytes(8, "big")
    return Entry(entry_id, "chat_event", f"{session}:{sequence}", encode_payload(payload))


# -- replicas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
async def test_two_replicas_that_append_at_once_keep_both_messages(*, reverse: bool) -> None:
    """Fault R5: equal sequence numbers from two replicas overwrote each other."""
    async with open_replica(seed=1) as a, open_replica(seed=2) as b:
        for number in range(5):
            await a.chat.append("s", text(f"a{number}"))
            await b.chat.append("s", text(f"b{number}"))
        await a.take_all(b, reverse=reverse)
        await b.take_all(a, reverse=not reverse)
        seen = await a.chat.list("s")

        assert await b.chat.list("s") == seen
        assert len(seen) == 10
        assert [event.sequence for event in seen] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


async def test_an_answer_sorts_after_what_it_answers_whatever_the_clocks_say() -> None:
    async with (
        open_replica(clock=Clock(2_000_000_000.0)) as a,
        open_replica(clock=Clock(1_000_000_000.0)) as b,
    ):
        await a.chat.append_all("s", [text("question"), text("more")])
        await b.take_all(a)
        answer = await b.chat.append("s", text("answer"))
        await a.take_all(b)

        assert answer.sequence == 3
        assert contents(await a.chat.list("s")) == ["question", "more", "answer"]
        assert await a.chat.list("s") == await b.chat.list("s")


async def test_an_entry_that_arrives_twice_is_listed_once() -> None:
    async with open_replica() as a, open_replica() as b:
        await a.chat.append("s", text("one"))
        for _delivery in range(2):
            await b.take_all(a)

        assert contents(await b.chat.list("s")) == ["one"]


async def test_a_late_offline_message_reaches_a_follower_though_it_sorts_first() -> None:
    async with open_replica() as a, open_replica() as offline:
        await offline.chat.append("s", text("written offline"))
        await a.chat.append_all("s", [text("1"), text("2")])
        following = a.chat.follow("s")
        await a.take_all(offline)
        async with asyncio.timeout(10):
            event = await anext(following)
        await following.aclose()

        assert contents([event]) == ["written offline"]
        assert event.sequence == 1
        assert set(contents((await a.chat.list("s"))[:2])) == {"written offline", "1"}


async def test_received_sessions_appear_in_the_session_index(journal: EventJournal) -> None:
    async with open_replica() as a, open_replica(journal) as b:
        await a.chat.append("s", text("one"), timestamp_ms=5)
        await a.chat.append("s", text("two"), timestamp_ms=9)
        await b.take_all(a, reverse=True)

        assert await b.index.list() == [SessionMeta("s", 5, 9)]
        assert await b.chat.sessions() == ["s"]


@pytest.mark.parametrize("sequence", [-1, SEQUENCE_MAX + 1, "1", None, 1e300])
async def test_a_malformed_entry_of_a_peer_hides_nothing_and_is_not_lost(sequence: object) -> None:
    async with open_replica() as a, open_replica() as peer:
        await a.chat.append("s", text("good"))
        following = a.chat.follow(after=0)
        await a.take(peer, "chat_history", [stock_entry(1, sequence=sequence), stock_entry(2)])
        async with asyncio.timeout(10):
            followed = [await anext(following) for _event in range(2)]
        await following.aclose()

        assert set(contents(await a.chat.list("s"))) == {"good", "stock 2"}
        assert contents(followed) == ["good", "stock 2"]
        held = await a.journal.entries("chat_history")
        assert [stored.is_applied for stored in held] == [True, False, True]


async def test_a_peer_at_the_end_of_all_numbers_stops_nobody_from_appending() -> None:
    async with open_replica() as a, open_replica() as peer:
        await a.take(peer, "chat_history", [stock_entry(1, sequence=SEQUENCE_MAX)])
        appended = [await a.chat.append("s", text(number)) for number in range(3)]

        assert [event.sequence for event in appended] == [SEQUENCE_MAX] * 3
        assert contents(await a.chat.list("s")) == ["stock 1", 0, 1, 2]
        page = await a.chat.list_page("s", limit=2)
        assert contents(await a.chat.list("s", cursor=page.next_cursor)) == [1, 2]


# -- retention ------------------------------------------------------------------------------------


async def test_retention_by_count_keeps_the_newest_of_each_session(journal: EventJournal) -> None:
    async with open_replica(journal, config=keeping(max_events=3)) as replica:
        for session in ("busy", "quiet"):
            count = 8 if session == "busy" else 2
            for number in range(count):
                await replica.chat.append(session, text(number))
        await replica.chat.cleanup()

        assert contents(await replica.chat.list("busy")) == [5, 6, 7]
        assert contents(await replica.chat.list("quiet")) == [0, 1]
        assert len(await replica.journal.entries("chat_history")) == 5


async def test_retention_by_count_is_kept_up_while_appending() -> None:
    async with open_replica(config=keeping(max_events=20)) as replica:
        for number in range(60):
            await replica.chat.append("s", text(number))
            assert len(await replica.chat.list("s", limit=1000)) <= 22

        assert contents(await replica.chat.list("s", limit=1, reverse=True)) == [59]


async def test_retention_by_age_drops_old_messages() -> None:
    clock = Clock()
    async with open_replica(clock=clock, config=keeping(max_age_seconds=DAY)) as replica:
        await replica.chat.append("s", text("old"))
        clock.now += DAY / 2
        await replica.chat.append("s", text("young"))
        clock.now += DAY / 2 + 1
        report = await replica.chat.cleanup()

        assert contents(await replica.chat.list("s")) == ["young"]
        assert report is not None
        assert (report.before, report.after, report.dropped) == (2, 1, 1)


async def test_a_retention_of_zero_keeps_nothing() -> None:
    async with open_replica(config=keeping(max_events=0)) as replica:
        await replica.chat.append("s", text("gone"))

        assert await replica.chat.list("s") == []
        assert await replica.chat.sessions() == []
        assert await replica.index.list_ids() == []


async def test_without_settings_everything_is_kept_and_listed() -> None:
    async with open_replica() as replica:
        await replica.chat.append_all("s", [text(number) for number in range(500)])

        assert await replica.chat.cleanup() is None
        assert len(await replica.chat.list("s")) == 500


async def test_the_compaction_of_the_graph_is_applied_at_cleanup() -> None:
    async with open_replica(compaction=ByCount(2)) as replica:
        await replica.chat.append_all("s", [text(number) for number in range(5)])
        await replica.chat.cleanup()

        assert contents(await replica.chat.list("s")) == [3, 4]


async def test_retention_waits_for_what_a_remote_has_not_acknowledged() -> None:
    async with open_replica(config=keeping(max_events=1)) as replica:
        await replica.meet_remote("chat_history")
        for number in range(4):
            await replica.chat.append("s", text(number))
        await replica.chat.cleanup()
        before = contents(await replica.chat.list("s"))
        await replica.acknowledge_all("chat_history")
        await replica.chat.cleanup()

        assert before == [0, 1, 2, 3]
        assert contents(await replica.chat.list("s")) == [3]


async def test_what_retention_dropped_does_not_come_back_from_a_remote() -> None:
    """Fault R7: compaction was undone by the next sync."""
    async with open_replica(config=keeping(max_events=2)) as a, open_replica() as b:
        await a.chat.append_all("s", [text(number) for number in range(3)])
        await b.take_all(a)
        await b.chat.append_all("s", [text(number) for number in range(3, 6)])
        await a.take_all(b)
        await a.chat.cleanup()
        await a.take_all(b)

        assert contents(await a.chat.list("s")) == [4, 5]


# -- purge ----------------------------------------------------------------------------------------


async def test_a_purged_session_does_not_come_back_from_a_remote(journal: EventJournal) -> None:
    async with open_replica(journal) as a, open_replica() as b:
        await a.chat.append_all("s", [text(1), text(2)])
        await b.take_all(a)
        purged = await a.chat.purge("s")
        await a.take_all(b)

        assert purged == 2
        assert await a.chat.list("s") == []
        assert await a.chat.sessions() == []
        assert await a.index.list_ids() == []
        assert contents(await b.chat.list("s")) == [1, 2]


async def test_a_message_appended_after_a_purge_begins_the_session_anew() -> None:
    async with open_replica() as a, open_replica() as b:
        await a.chat.append("s", text("purged"))
        await b.take_all(a)
        await a.chat.purge("s")
        await b.chat.append("s", text("later"))
        await a.take_all(b)

        assert contents(await a.chat.list("s")) == ["later"]
        assert await a.index.list_ids() == ["s"]


async def test_purging_hides_at_once_what_a_remote_still_has_to_get(journal: EventJournal) -> None:
    async with open_replica(journal) as replica:
        await replica.meet_remote("chat_history")
        await replica.chat.append_all("s", [text(1), text(2)])
        await replica.chat.purge("s")
        hidden = await replica.chat.list("s")
        held = len(await replica.journal.entries("chat_history"))
        await replica.acknowledge_all("chat_history")
        await replica.chat.cleanup()

        assert (hidden, held) == ([], 2)
        assert await replica.journal.entries("chat_history") == []


async def test_purging_more_than_one_step_drops_everything() -> None:
    async with open_replica() as replica:
        await replica.chat.append_all("s", [text(number) for number in range(1200)])

        assert await replica.chat.purge("s") == 1200
        assert await replica.journal.entries("chat_history") == []


async def test_purging_the_chat_leaves_a_session_that_has_artifacts_in_the_index() -> None:
    async with open_replica() as replica:
        await replica.chat.append("s", text(1))
        await replica.artifacts.put(ArtifactRecord(id="a", session_id="s", kind="file", content="x"))
        await replica.chat.purge("s")

        assert await replica.index.list_ids() == ["s"]
        await replica.artifacts.purge_session("s")
        assert await replica.index.list_ids() == []


# -- quirks of the reference, which ours has not ---------------------------------------------------


async def test_quirk_after_retention_a_default_list_shows_what_is_left() -> None:
    """The reference's list enumerates numbers from 1 and may show nothing."""
    async with open_replica(config=keeping(max_events=5)) as replica:
        for number in range(300):
            await replica.chat.append("s", text(number))
        await replica.chat.cleanup()

        assert contents(await replica.chat.list("s")) == [295, 296, 297, 298, 299]


async def test_quirk_sequence_numbers_do_not_fall_back_when_cleanup_drops_the_newest() -> None:
    """The reference lowers its last number over trailing gaps."""
    clock = Clock()
    async with open_replica(clock=clock, config=keeping(max_age_seconds=DAY)) as replica:
        await replica.chat.append_all("s", [text(1), text(2)])
        clock.now += 2 * DAY
        await replica.chat.cleanup()

        assert await replica.chat.list("s") == []
        assert (await replica.chat.append("s", text(3))).sequence == 3


async def test_quirk_a_failed_append_leaves_no_number_behind() -> None:
    """The reference writes first and takes back afterwards; ours is one transaction."""
    async with open_replica() as replica:
        with pytest.raises(UsageError):
            await replica.chat.append("s", {"bad": object()})

        assert (await replica.chat.append("s", text(1))).sequence == 1


async def test_a_store_that_is_switched_off_takes_nothing_and_stays_readable(
    journal: EventJournal,
) -> None:
    async with open_replica(journal) as replica:
        await replica.chat.append("s", text("before"))
    off = StorageConfig.from_mapping({"enabled": {"chat_history": False}})
    async with open_replica(journal, config=off) as replica:
        event = await replica.chat.append("s", text("lost on purpose"))

        assert (event.sequence, event.entry_id) == (0, b"")
        assert contents(await replica.chat.list("s")) == ["before"]


async def test_the_page_size_of_the_settings_is_the_default_limit() -> None:
    config = StorageConfig.from_mapping({"pagination": {"chat_page_size": 3}})
    async with open_replica(config=config) as replica:
        await replica.chat.append_all("s", [text(number) for number in range(5)])

        assert contents(await replica.chat.list("s")) == [0, 1, 2]
        assert contents(await replica.chat.list("s", limit=4)) == [0, 1, 2, 3]
        assert contents([event async for event in replica.chat.stream("s")]) == [0, 1, 2, 3, 4]


# -- session index in another journal --------------------------------------------------------------


async def test_an_index_in_another_journal_is_touched_after_the_commit() -> None:
    async with (
        MemoryJournal() as own,
        MemoryJournal() as other,
        SessionIndexStore(other) as index,
        ChatHistoryStore(own, IDENTITY, session_index=index) as chat,
    ):
        await chat.append("s", text(1), timestamp_ms=7)
        touched = await index.list()
        await chat.purge("s")

        assert touched == [SessionMeta("s", 7, 7)]
        assert await index.list_ids() == []


async def test_an_index_that_fails_never_fails_an_append() -> None:
    other = MemoryJournal()
    async with (
        MemoryJournal() as own,
        ChatHistoryStore(own, IDENTITY, session_index=SessionIndexStore(other)) as chat,
    ):
        event = await chat.append("s", text(1))

        assert await chat.list("s") == [event]


async def test_what_a_closed_and_reopened_journal_holds_is_read_again(
    journal: EventJournal,
) -> None:
    async with open_replica(journal) as replica:
        appended = [await replica.chat.append("s", text(number)) for number in range(3)]
    async with open_replica(journal) as replica:
        listed = await replica.chat.list("s")
        following = replica.chat.follow(after=listed[0].position)
        async with asyncio.timeout(10):
            followed = [await anext(following) for _event in range(2)]
        await following.aclose()

        assert listed == appended
        assert followed == appended[1:]
        assert (await replica.chat.append("s", text(3))).sequence == 4
