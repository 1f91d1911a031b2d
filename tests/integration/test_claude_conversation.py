"""Conversations with the real ``claude`` command, which talks to our stand-in of the Messages API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentlayers.testing.messages_api import ApiReply, ApiRequest, say, use_tool
from helpers.claude_world import ClaudeWorld, children, claude_world, needs_claude, only_own_environment

pytestmark = [needs_claude, pytest.mark.timeout(30)]


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = children()
    with only_own_environment(tmp_path, monkeypatch):
        yield
    assert children() <= before


async def test_a_text_prompt_is_answered_and_the_command_is_gone(tmp_path: Path) -> None:
    async with claude_world(tmp_path, "hello yourself") as world:
        messages = await world.ask("hello")

        assert ["system", "assistant", "result"] == [message.type for message in messages]
        assert "hello yourself" == messages[-1].text
        assert world.api.requests[0].had_credentials
        assert "hello" in world.api.requests[0].prompt
        assert {"/v1/messages"} == {request.path for request in world.api.all_requests}
