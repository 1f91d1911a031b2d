"""What a session is called, and where it was held."""

from __future__ import annotations

from typing import Any

import pytest

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.memory import MemoryJournal
from agentlayers.runtime.session_store import AgentSessionStore
from agentlayers.runtime.session_title import first_prompt, transcript_facts
from agentlayers.storage.session_index import SessionIndexStore

KEY = {"project_key": "p", "session_id": "s"}


def prompt(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "user", "message": {"role": "user", "content": text}, **fields}


@pytest.mark.parametrize(
    "record",
    [
        prompt("an aside", isMeta=True),
        prompt("a summary", isCompactSummary=True),
        prompt("for a subagent", isSidechain=True),
        prompt("<command-name>/clear</command-name>"),
        prompt("[Request interrupted by user]"),
        prompt("  \n "),
        prompt("x") | {"type": "assistant"},
        prompt("") | {"message": {"content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]}},
        {"type": "user", "message": None},
    ],
)
def test_what_no_person_typed_is_no_prompt(record: dict[str, Any]) -> None:
    assert "" == first_prompt(record)


def test_a_long_title_is_cut() -> None:
    (title,) = [fact.text for fact in transcript_facts(prompt("word " * 100), bytes(16)).values()]

    assert 200 >= len(title)
    assert title.endswith("…")


@pytest.mark.parametrize("reverse", [False, True])
async def test_titles_rank_and_a_person_has_the_last_word(*, reverse: bool) -> None:
    records = [
        prompt("first"), prompt("second", cwd="/a", gitBranch="main"), {"type": "summary", "summary": "summed up"},
        {"type": "ai-title", "aiTitle": "made up"}, {"type": "custom-title", "customTitle": "chosen"},
        {"type": "custom-title", "customTitle": "chosen\nagain"}, {"type": "ai-title", "aiTitle": "made up later"},
        prompt("third", cwd="/b", gitBranch="topic"), {"type": "custom-title", "customTitle": 7}, {"type": ["odd"]},
    ]  # fmt: skip
    for count, expected in ((2, "first"), (3, "summed up"), (4, "made up"), (10, "chosen again")):
        numbered = list(enumerate(records[:count]))
        best: dict[str, Any] = {}
        for number, record in reversed(numbered) if reverse else numbered:
            for name, fact in transcript_facts(record, bytes([number]) * 16).items():
                best[name] = max(best.get(name, fact), fact, key=lambda one: one.place)
        assert expected == best["title"].text
    assert ("/a", "topic") == (best["project"].text, best["branch"].text)


async def test_a_session_that_an_agent_records_gets_its_title_too() -> None:
    async with (
        MemoryJournal() as journal,
        SessionIndexStore(journal) as index,
        AgentSessionStore(journal, Identity.generate(), session_index=index) as store,
    ):
        await index.touch("s")
        await store.append(KEY, [prompt("Where is it?", uuid="u", cwd="/home/me")])
        await store.append({**KEY, "subpath": "subagents/x"}, [{"type": "ai-title", "aiTitle": "of a subagent"}])
        meta = await index.get("s")

    assert meta is not None
    assert ("Where is it?", "/home/me") == (meta.title, meta.project)
