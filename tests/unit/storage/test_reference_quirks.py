"""
The quirks of the TypeScript SDK's stores, and which tests show that ours do the sensible thing.

Each is one that its reference marks as unintended, or that loses or hides something.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import NamedTuple

import pytest

from agentlayers.journal.event_journal import EventJournal
from agentlayers.layer.errors import ServiceNotFoundError
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.session_index import SessionIndexStore
from agentlayers.storage.storage_config import StorageConfig
from helpers.store_replica import open_replica

ROOT = Path(__file__).parents[3]
PLACES = (ROOT / "tests", ROOT / "src" / "agentlayers" / "testing")


class Quirk(NamedTuple):
    """What happens there, and the tests that show what happens here."""

    there: str
    tests: tuple[str, ...]


QUIRKS = {
    "chat: a limit of 0": Quirk("it counts as no limit", ("test_a_limit_of_zero_lists_nothing",)),
    "chat: a long session": Quirk(
        "its oldest page is listed, and nothing says that there is more",
        ("test_quirk_a_long_session_says_that_there_is_more_and_gives_its_newest_first",),
    ),
    "chat: after retention": Quirk(
        "sequence numbers are enumerated from 1, so a default list may be empty while newer messages exist",
        ("test_quirk_after_retention_a_default_list_shows_what_is_left",),
    ),
    "chat: sequence numbers after cleanup": Quirk(
        "the last number is lowered over trailing gaps, and numbers are given twice",
        ("test_quirk_sequence_numbers_do_not_fall_back_when_cleanup_drops_the_newest",),
    ),
    "chat: concurrent appends": Quirk(
        "read, modify and write without a lock: two appends may take one number",
        ("test_fifty_concurrent_appends_keep_fifty", "test_two_replicas_that_append_at_once_keep_both_messages"),
    ),
    "chat: a failed append": Quirk(
        "the message is written first and taken back afterwards",
        ("test_quirk_a_failed_append_leaves_no_number_behind",),
    ),
    "chat: two replicas in one session": Quirk(
        "numbers are given by each replica, so messages collide and one is lost",
        ("test_two_replicas_that_append_at_once_keep_both_messages", "test_chat_converges_and_loses_no_message"),
    ),
    "artifacts: purging a journaled session": Quirk(
        "the session index is touched instead of losing the session",
        ("test_quirk_purging_a_journaled_session_takes_it_out_of_the_index",),
    ),
    "artifacts: an index that points at nothing": Quirk(
        "records and index are written apart; a list repairs what it stumbles upon",
        ("test_a_replica_is_good_whatever_was_done_to_it", "test_damage_of_read_models_is_found_and_repaired"),
    ),
    "artifacts: a put and a delete at once": Quirk(
        "they have one key and different tags, so they never conflict, and replicas differ",
        ("test_a_delete_and_a_put_at_once_conflict", "test_artifacts_converge_under_every_policy"),
    ),
    "audit: cleanup": Quirk(
        "it is declared and implemented by no layer",
        ("test_a_run_cleans_every_store",),
    ),
    "audit: local entries": Quirk(
        "retention runs only on entries that arrive from a remote, so local ones are never pruned",
        ("test_quirk_local_entries_are_pruned_by_count", "test_quirk_local_entries_are_pruned_by_age"),
    ),
    "audit: two uses of one tool": Quirk(
        "they share a key, count as a conflict, and one is lost",
        ("test_two_uses_of_one_tool_are_two_entries", "test_quirk_equal_uses_of_a_tool_on_two_replicas_are_all_kept"),
    ),
    "session index: no provider": Quirk(
        "it is silently a service that keeps nothing",
        ("test_quirk_a_session_index_that_nobody_provides_is_refused_when_the_graph_is_built",),
    ),
    "session index: a failure": Quirk(
        "logged, never raised: and the index stays wrong",
        (
            "test_an_index_that_fails_never_fails_an_append",
            "test_a_session_that_is_not_listed_is_a_note_and_is_listed_again",
        ),
    ),
    "cleanup: run_on_start is false": Quirk(
        "the schedule's first run is at once all the same",
        ("test_quirk_nothing_is_cleaned_at_start_unless_the_settings_say_so",),
    ),
    "cleanup: run_on_start is true": Quirk("it runs twice at start", ("test_quirk_running_at_start_cleans_once",)),
    "settings: a value below its floor": Quirk(
        "it is silently raised", ("test_a_bad_variable_is_named_with_what_would_be_right",)
    ),
    "settings: names and prefixes": Quirk(
        "one prefix; ours reads its own names and those", ("test_every_variable_sets_its_setting",)
    ),
    "journal: a write": Quirk(
        "the whole journal is written again for each entry",
        ("test_what_is_pending_is_found_by_an_index", "test_fifty_concurrent_writes_keep_fifty"),
    ),
}


async def test_quirk_a_long_session_says_that_there_is_more_and_gives_its_newest_first(journal: EventJournal) -> None:
    """A page has a cursor if there is more, in either direction; a stream has no end before the last."""
    config = StorageConfig.from_mapping({"pagination": {"chat_page_size": 10}})
    async with open_replica(journal, config=config) as replica:
        await replica.chat.append_all("s", [{"n": number} for number in range(25)])
        page = await replica.chat.list_page("s")
        newest = await replica.chat.list("s", reverse=True)
        streamed = [event.message["n"] async for event in replica.chat.stream("s")]

        assert page.next_cursor is not None
        assert [event.message["n"] for event in newest] == list(range(24, 14, -1))
        assert streamed == list(range(25))


async def test_quirk_a_session_index_that_nobody_provides_is_refused_when_the_graph_is_built() -> None:
    with pytest.raises(ServiceNotFoundError, match="SessionIndexStore"):
        async with ChatHistoryStore.layer_memory().build(SessionIndexStore):
            pass


@functools.cache
def names_of_tests() -> frozenset[str]:
    return frozenset(
        node.name
        for place in PLACES
        for path in place.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


@pytest.mark.parametrize("name", QUIRKS)
def test_each_quirk_has_a_test_that_shows_what_ours_does(name: str) -> None:
    """The tests that are named exist; what they show is theirs to say."""
    quirk = QUIRKS[name]

    assert quirk.tests
    assert [test for test in quirk.tests if test not in names_of_tests()] == []


def test_every_test_of_a_quirk_is_in_the_table() -> None:
    listed = {test for quirk in QUIRKS.values() for test in quirk.tests}

    assert {name for name in names_of_tests() if name.startswith("test_quirk_")} <= listed
