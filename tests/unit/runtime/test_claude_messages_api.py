"""The stand-in of the Messages API, spoken to over a real connection."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from agentlayers.testing.messages_api import ApiReply, MessagesApi, Script, claude_environment, say, think, use_tool

ASKED: dict[str, Any] = {
    "model": "m",
    "stream": True,
    "tools": [{"name": "Bash"}],
    "messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hm"}],
}


async def post(api: MessagesApi, path: str = "/v1/messages", **body: Any) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(api.url + path, json={**ASKED, **body}, headers={"x-api-key": "secret"}) as response,
    ):
        return response.status, await response.text()


async def answers(script: Script, times: int = 1) -> list[Any]:
    async with MessagesApi(script) as api:
        return [json.loads((await post(api, stream=False))[1]) for _ in range(times)]


async def test_what_is_asked_is_kept_without_the_key() -> None:
    async with MessagesApi() as api:
        await post(api)
        request = await api.until_asked()

    assert ("hello", True, ["Bash"]) == (request.prompt, request.had_credentials, request.tool_names)
    assert "secret" not in repr(request)


async def test_a_stream_has_every_event_of_the_real_one() -> None:
    async with MessagesApi([[think("hm"), say("abcdef"), use_tool("Bash", {"a": 1}, tool_use_id="t")]]) as api:
        _status, text = await post(api)

    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    named = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert named == [event["type"] for event in events]
    assert ("message_start", "message_stop") == (named[0], named[-1])
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert ["ab", "cd", "ef"] == [delta["text"] for delta in deltas if delta["type"] == "text_delta"]
    assert {"a": 1} == json.loads(deltas[-1]["partial_json"])
    assert "tool_use" == events[-2]["delta"]["stop_reason"]


async def test_answers_are_given_in_turn_and_the_last_again_and_again() -> None:
    found = await answers(["one", [say("two")], use_tool("Bash", {}), ApiReply([say("last")])], 5)

    assert ["one", "two", "Bash", "last", "last"] == [
        answer["content"][0].get("text") or answer["content"][0]["name"] for answer in found
    ]


async def test_a_script_may_be_a_function_that_waits() -> None:
    async def script(request: Any) -> str:
        await asyncio.sleep(0)
        return f"heard {request.prompt}"

    assert ["heard hello"] == [answer["content"][0]["text"] for answer in await answers(script)]


async def test_an_error_comes_as_the_api_tells_it() -> None:
    async with MessagesApi([ApiReply(status=529, error_type="overloaded_error", error_message="busy")]) as api:
        status, text = await post(api)

    assert (529, {"type": "overloaded_error", "message": "busy"}) == (status, json.loads(text)["error"])


async def test_a_model_that_is_only_tried_out_is_no_turn_of_the_script() -> None:
    async with MessagesApi(["one"]) as api:
        await post(api, max_tokens=1)
        status, _ = await post(api, "/v1/nothing")

        assert (404, 0, 2) == (status, len(api.requests), len(api.all_requests))


async def test_an_answer_that_hangs_ends_with_the_stand_in() -> None:
    async with MessagesApi([ApiReply([say("never")], hangs=True)]) as api:
        asking = asyncio.create_task(post(api))
        await api.until_asked()

    async with asyncio.timeout(10):
        outcome = await asyncio.gather(asking, return_exceptions=True)

    assert "never" not in str(outcome)


def test_the_environment_leaves_nothing_to_chance() -> None:
    environment = claude_environment("http://127.0.0.1:1", "/tmp/home")

    assert "http://127.0.0.1:1" == environment["ANTHROPIC_BASE_URL"]
    assert "1" == environment["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"]
    for name in ("HOME", "CLAUDE_CONFIG_DIR", "CLAUDE_CODE_TMPDIR"):
        assert environment[name].startswith("/tmp/home")


@pytest.mark.parametrize("block", [say("x"), think("x"), use_tool("x", {})])
def test_blocks_are_plain_data(block: dict[str, Any]) -> None:
    assert block == json.loads(json.dumps(block))
