"""Searching the chat history: retention, purge, sync, older files, and agreement of the two indexes."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from agentlayers.journal.compaction import ByCount
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.sqlite import JOURNAL_FILE, SCHEMA_VERSION, SQLiteJournal
from agentlayers.journal.sqlite.schema import JOURNAL_FORMAT
from agentlayers.journal.text_search import parse_terms, places_of
from agentlayers.limits import COMPACTION_STEP_ROWS_MAX, SEARCH_TEXT_CHARACTERS_MAX
from agentlayers.storage.chat_search import searchable_text
from agentlayers.storage.storage_config import StorageConfig
from agentlayers.storage.verify import Severity, verify
from helpers.older_file import make_older
from helpers.store_replica import Clock, Replica, open_replica


def said(text: str) -> dict[str, object]:
    return {"type": "user", "message": {"role": "user", "content": text}}


async def found(replica: Replica, text: str, session_id: str | None = None) -> list[int]:
    page = await replica.chat.search(text, session_id, limit=10_000)
    return [match.event.sequence for match in page.items]


async def test_retention_takes_messages_out_of_the_index(journal: EventJournal) -> None:
    config = StorageConfig.from_mapping({"retention": {"chat": {"max_events": 10, "max_age": None}}})
    async with open_replica(journal, config=config) as replica:
        for number in range(25):
            await replica.chat.append("s", said(f"word {number}"))
        await replica.chat.cleanup()
        by_setting = await found(replica, "word")
        await replica.journal.compact("chat_history", ByCount(3))

        assert by_setting == list(range(25, 15, -1))
        assert await found(replica, "word") == [25, 24, 23]


async def test_what_is_purged_before_a_remote_has_it_is_hidden_from_searches_too(journal: EventJournal) -> None:
    async with open_replica(journal) as replica:
        await replica.meet_remote("chat_history")
        await replica.chat.append("s", said("word"))
        await replica.chat.purge("s")
        hidden = await found(replica, "word")
        await replica.acknowledge_all("chat_history")
        await replica.chat.cleanup()

        assert hidden == await found(replica, "word") == []


async def test_received_messages_are_found_once_however_often_they_arrive(journal: EventJournal) -> None:
    async with open_replica() as a, open_replica(journal) as b:
        await a.chat.append("s", said("word one"))
        await a.chat.append("s", said("word two"))
        for _ in range(2):
            await b.take_all(a, reverse=True)

        assert sorted(await found(b, "word")) == [1, 2]


async def test_the_page_size_of_the_settings_is_the_default_limit() -> None:
    config = StorageConfig.from_mapping({"pagination": {"chat_page_size": 2}})
    async with open_replica(config=config) as replica:
        for _ in range(3):
            await replica.chat.append("s", said("word"))

        assert len((await replica.chat.search("word")).items) == 2


def test_only_so_much_of_a_message_is_searched() -> None:
    text = searchable_text({"content": ["x" * SEARCH_TEXT_CHARACTERS_MAX, "beyond"], "other": "beyond"})

    assert text == "x" * SEARCH_TEXT_CHARACTERS_MAX


async def test_messages_of_an_older_file_are_found_after_the_upgrade(tmp_path: Path) -> None:
    """They come into the index in steps, at the first search; what was purged does not."""
    count = COMPACTION_STEP_ROWS_MAX + 50
    async with open_replica(SQLiteJournal(tmp_path)) as replica:
        await replica.meet_remote("chat_history")
        await replica.chat.append_all("s", [said(f"old word {number}") for number in range(count)])
        await replica.chat.append("gone", said("old word"))
        await replica.chat.purge("gone")
    make_older(tmp_path / JOURNAL_FILE, JOURNAL_FORMAT, 1)
    async with open_replica(SQLiteJournal(tmp_path)) as replica:
        await replica.chat.append("s", said("new word"))

        assert await found(replica, "word") == list(range(count + 1, 0, -1))
    async with open_replica(SQLiteJournal(tmp_path)) as replica:
        await replica.chat.append("s", said("newest word"))

        assert await found(replica, "word") == list(range(count + 2, 0, -1))
    connection = sqlite3.connect(tmp_path / JOURNAL_FILE)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (rows,) = connection.execute(
        "SELECT (SELECT count(*) FROM text_index) + (SELECT count(*) FROM text_waiting)"
    ).fetchone()
    connection.close()
    assert version == SCHEMA_VERSION >= 2
    assert rows == count + 2
    findings = verify(tmp_path, now_ms=int(Clock().now * 1000)).findings
    assert [finding.text for finding in findings if finding.severity is Severity.FAULT] == []


WORDS = ("cat", "Cats", "dög", "dog", "Straße", "foo_bar", "foo", "bar", "x2", "e\u0301t\u00e9", "naïve", "AND")


@pytest.mark.parametrize("seed", range(4))
async def test_both_indexes_and_the_definition_agree(seed: int, tmp_path: Path) -> None:
    """Random small texts and searches."""
    chance = random.Random(seed)
    count = 100
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 6))) for _ in range(count)]
    searches = [" ".join(chance.choices(WORDS, k=chance.randint(1, 2))) for _ in range(30)]
    searches += [f'"{search}"' for search in searches] + [search[:2] + "*" for search in searches]
    async with open_replica() as memory, open_replica(SQLiteJournal(tmp_path)) as disk:
        for replica in (memory, disk):
            # Some go to the index at once, some wait beside it.
            await replica.chat.append_all("s", [said(text) for text in texts[:70]])
            for text in texts[70:]:
                await replica.chat.append("s", said(text))
        matches = 0
        for search in searches:
            terms = parse_terms(search)
            expected = [number for number in range(count, 0, -1) if places_of(texts[number - 1], terms) is not None]
            matches += len(expected)

            assert await found(memory, search) == expected, search
            assert await found(disk, search) == expected, search
        assert matches > 100
