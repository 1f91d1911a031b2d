"""When a turn of the ``claude`` command runs, and when it owes nothing more."""

from __future__ import annotations

import asyncio
from typing import Any

from agentlayers.runtime.claude_progress import ClaudeProgress

INIT = {"type": "system", "subtype": "init"}
RESULT = {"type": "result", "is_error": False}
ANSWER = {"type": "assistant"}


def state(name: str) -> dict[str, Any]:
    return {"type": "system", "subtype": "session_state_changed", "state": name}


def played(*frames: dict[str, Any] | None) -> ClaudeProgress:
    """Feed messages; None is a prompt."""
    progress = ClaudeProgress()
    for frame in frames:
        if frame is None:
            progress.prompt_written()
        else:
            progress.observe(frame)
    return progress


def test_nothing_runs_before_the_first_prompt() -> None:
    assert not played().is_running
    assert not played(state("idle")).is_running


def test_a_prompt_is_owed_until_the_command_is_idle_after_its_result() -> None:
    turn = [None, state("running"), INIT, ANSWER]

    assert played(*turn).is_running
    assert played(*turn, RESULT).is_running
    assert not played(*turn, RESULT, state("idle")).is_running


def test_some_hosts_say_idle_before_the_result() -> None:
    turn = [None, state("running"), INIT, ANSWER, state("idle")]

    assert played(*turn).is_running
    assert not played(*turn, RESULT).is_running


def test_a_command_that_tells_no_state_owes_nothing_after_its_result() -> None:
    assert not played(None, INIT, ANSWER, RESULT).is_running


def test_work_in_the_background_goes_on_past_a_result() -> None:
    turn = [None, state("running"), INIT, RESULT, state("running")]

    assert played(*turn).is_running
    assert played(*turn, INIT, RESULT).is_running
    assert not played(*turn, INIT, RESULT, state("idle")).is_running


def test_work_in_the_background_may_wake_an_idle_command() -> None:
    turn = [None, state("running"), INIT, RESULT, state("idle"), state("running")]

    assert played(*turn).is_running
    assert not played(*turn, INIT, RESULT, state("idle")).is_running


def test_an_idle_that_was_said_before_a_prompt_was_read_does_not_count() -> None:
    turn = [None, state("running"), INIT, RESULT, None, state("idle")]

    assert played(*turn).is_running
    assert not played(*turn, state("running"), INIT, RESULT, state("idle")).is_running


def test_waiting_for_an_answer_of_the_caller_is_running() -> None:
    assert played(None, state("running"), state("requires_action")).is_running


def test_only_messages_about_the_state_are_kept_from_the_caller() -> None:
    progress = ClaudeProgress()

    assert [True, False, True] == [progress.observe(frame) for frame in (INIT, state("running"), RESULT)]


def test_refused_credentials_are_noticed_and_forgotten_with_the_next_prompt() -> None:
    refused = [None, INIT, {"type": "assistant", "error": "authentication_failed"}, RESULT]

    assert played(*refused).login_failed
    assert not played(*refused, None).login_failed


async def test_whoever_waits_is_told_when_nothing_more_can_come() -> None:
    progress = played(None)

    progress.ended()

    async with asyncio.timeout(10):
        await progress.until_begun()
        await progress.until_settled()
