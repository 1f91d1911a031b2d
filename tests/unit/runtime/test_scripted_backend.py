"""The scripted agent: the messages of a real one, with tools that really run."""
# ruff: noqa: ASYNC240

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agentlayers.errors import BackendError, ScriptError, StateError, UsageError
from agentlayers.runtime.backend import Prompt
from agentlayers.runtime.hooks import HookMatcher
from agentlayers.runtime.message import AgentMessage, user_message
from agentlayers.runtime.options import QueryOptions
from agentlayers.runtime.script import CallTool, Delay, Fail, Interrupt, Say, Script, Think, Turn
from agentlayers.runtime.scripted import ScriptedBackend


async def play(backend: ScriptedBackend, prompt: Prompt, **options: Any) -> list[AgentMessage]:
    query = await backend.start(prompt, QueryOptions.from_mapping(options))
    try:
        return [message async for message in query]
    finally:
        await query.aclose()


def kinds(messages: list[AgentMessage]) -> list[str]:
    return [f"{m.type}/{m.subtype}" if m.subtype else m.type for m in messages]


def one_turn(*steps: Any, repeat: bool = False) -> Script:
    return Script([Turn(steps, repeat=repeat)])


WRITE = CallTool("write_file", {"path": "a.txt", "content": "{prompt}"})


async def test_a_tool_turn_has_the_messages_of_a_real_one(tmp_path: Path) -> None:
    backend = ScriptedBackend(one_turn(Say("on it"), WRITE, Say("told: {result}")), directory=tmp_path)

    messages = await play(backend, "content")

    assert [
        "system/init",
        "assistant",
        "assistant",
        "user",
        "assistant",
        "result/success",
    ] == kinds(messages)
    init, said, used, result, after, end = messages
    assert "content" == (tmp_path / "a.txt").read_text()
    assert str(tmp_path) == init.raw["cwd"]
    assert ("on it", "told: created a.txt (7 bytes)") == (said.text, after.text)
    (use,), (told,) = used.tool_uses, result.tool_results
    assert ("write_file", {"path": "a.txt", "content": "content"}) == (use.name, use.input)
    assert (use.id, False) == (told.tool_use_id, told.is_error)
    assert "create" == told.structured["type"]
    assert (False, 2, after.text, []) == (
        end.is_error,
        end.raw["num_turns"],
        end.raw["result"],
        end.raw["permission_denials"],
    )
    assert 1 == len({message.session_id for message in messages})
    assert len(messages) == len({message.uuid for message in messages})
    assert said.raw["message"]["id"] == used.raw["message"]["id"] != after.raw["message"]["id"]


async def test_one_seed_gives_the_same_ids_and_another_does_not() -> None:
    async def ids(seed: int | None) -> list[Any]:
        backend = ScriptedBackend(one_turn(WRITE, repeat=True), seed=seed)
        runs = [await play(backend, "x"), await play(backend, "x")]
        return [(m.session_id, m.uuid, [use.id for use in m.tool_uses]) for run in runs for m in run]

    assert await ids(1) == await ids(1)
    assert await ids(1) != await ids(2)
    assert await ids(None) != await ids(None)


async def test_the_temporary_directory_is_gone_after_the_query() -> None:
    messages = await play(ScriptedBackend(one_turn(WRITE)), "x")

    assert not Path(messages[0].raw["cwd"]).exists()


async def test_the_cwd_option_wins_and_has_to_exist(tmp_path: Path) -> None:
    backend = ScriptedBackend(one_turn(WRITE), directory=tmp_path / "other")

    await play(backend, "here", cwd=tmp_path)

    assert "here" == (tmp_path / "a.txt").read_text()
    with pytest.raises(UsageError, match="is no directory"):
        await play(backend, "x", cwd=tmp_path / "missing")


async def test_without_a_script_notes_are_kept_and_the_rest_is_echoed() -> None:
    backend = ScriptedBackend()

    note = await play(backend, "Keep a note of this.")
    echo = await play(backend, "hello {turn}")

    assert 2 == sum(len(m.tool_uses) for m in note)
    assert "Noted: Keep a note of this." == note[-1].text
    assert "You said: hello {turn}" == echo[-1].text


async def test_turns_answer_by_pattern_once_and_in_order() -> None:
    script = Script(
        [
            Turn([Say("first")]),
            Turn([Say("greeting")], when="*HELLO*", repeat=True),
            Turn([Say("second")]),
        ]
    )
    backend = ScriptedBackend(script)
    texts = [
        (await play(backend, prompt, session_id="s"))[-1].text
        for prompt in ("hello", "say hello", "other", "hello again")
    ]

    assert ["first", "greeting", "second", "greeting"] == texts


async def test_a_script_that_ran_out_says_so() -> None:
    backend = ScriptedBackend(Script.say("only"))
    await play(backend, "a", session_id="s")

    messages = await play(backend, "b", resume="s")

    assert ["system/init", "result/error_during_execution"] == kinds(messages)
    assert messages[-1].is_error
    assert "no turn is left that answers 'b'" in messages[-1].text


async def test_a_new_session_starts_at_the_first_turn() -> None:
    backend = ScriptedBackend(Script.say("one", "two"))

    assert ["one", "one"] == [(await play(backend, "x"))[-1].text for _ in range(2)]


async def test_a_failing_tool_is_told_and_the_conversation_goes_on() -> None:
    script = one_turn(CallTool("run_command", {"command": "exit 4"}), Say("it said {result}"))

    messages = await play(ScriptedBackend(script), "x")

    (told,) = messages[2].tool_results
    assert (True, "exit status 4") == (told.is_error, told.content)
    assert (False, "it said exit status 4") == (messages[-1].is_error, messages[-1].text)


async def test_fail_ends_the_turn_with_an_error_result() -> None:
    messages = await play(ScriptedBackend(one_turn(Say("a"), Fail("overloaded"), Say("b"))), "x")

    assert ["system/init", "assistant", "result/error_during_execution"] == kinds(messages)
    assert (["overloaded"], "api_error") == (
        messages[-1].raw["errors"],
        messages[-1].raw["terminal_reason"],
    )


async def test_a_crash_is_raised_to_the_reader() -> None:
    with pytest.raises(BackendError, match="broke down: segfault"):
        await play(ScriptedBackend(one_turn(Say("a"), Fail("segfault", crash=True))), "x")


async def test_thinking_and_partial_messages() -> None:
    backend = ScriptedBackend(one_turn(Think("hm"), Say("one two")))

    messages = await play(backend, "x", include_partial_messages=True)

    assert [
        "system/init",
        "assistant",
        "stream_event",
        "stream_event",
        "assistant",
        "result/success",
    ] == kinds(messages)
    assert "thinking" == messages[1].raw["message"]["content"][0]["type"]
    assert "one two" == "".join(m.raw["event"]["delta"]["text"] for m in messages[2:4])


async def test_max_turns_ends_with_an_error() -> None:
    messages = await play(ScriptedBackend(one_turn(WRITE, Say("never"))), "x", max_turns=1)

    assert ("error_max_turns", "max_turns") == (
        messages[-1].subtype,
        messages[-1].raw["terminal_reason"],
    )
    assert "never" not in [m.text for m in messages]


# -- permissions and hooks ------------------------------------------------------------------------------
def hook(output: Mapping[str, Any], seen: list[Any] | None = None) -> Any:
    async def answer(hook_input: Mapping[str, Any], tool_use_id: str | None, context: object) -> Mapping[str, Any]:
        if seen is not None:
            seen.append((hook_input["hook_event_name"], tool_use_id, dict(hook_input)))
        return output

    return answer


def pre(decision: str, **fields: Any) -> dict[str, Any]:
    return {
        "hookSpecificOutput": {
            "permissionDecision": decision,
            "permissionDecisionReason": "why",
            **fields,
        }
    }


async def test_a_denied_tool_does_not_run_and_the_agent_is_told(tmp_path: Path) -> None:
    backend = ScriptedBackend(one_turn(WRITE, Say("ok, {result}")), directory=tmp_path)
    hooks = {"PreToolUse": [HookMatcher("write_file", [hook(pre("deny"))])]}

    messages = await play(backend, "x", hooks=hooks)

    assert not (tmp_path / "a.txt").exists()
    (told,) = messages[2].tool_results
    assert (True, "why") == (told.is_error, told.content)
    (denial,) = messages[-1].raw["permission_denials"]
    assert ("write_file", told.tool_use_id) == (denial["tool_name"], denial["tool_use_id"])
    assert "ok, why" == messages[-1].text


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({}, True),
        ({"disallowed_tools": ["write_file"]}, False),
        ({"permission_mode": "plan"}, False),
        ({"permission_mode": "dontAsk"}, False),
        ({"permission_mode": "dontAsk", "allowed_tools": ["write_file"]}, True),
        ({"permission_mode": "acceptEdits"}, True),
        ({"permission_mode": "bypassPermissions", "disallowed_tools": ["write_file"]}, False),
        ({"hooks": {"PermissionRequest": [HookMatcher(hooks=[hook({})])]}}, True),
        ({"hooks": {"PreToolUse": [HookMatcher(hooks=[hook(pre("ask"))])]}}, False),
        (
            {
                "hooks": {"PreToolUse": [HookMatcher(hooks=[hook(pre("allow"))])]},
                "permission_mode": "plan",
            },
            True,
        ),
    ],
)
async def test_rules_and_modes_decide(tmp_path: Path, options: dict[str, Any], runs: bool) -> None:
    await play(ScriptedBackend(one_turn(WRITE), directory=tmp_path), "x", **options)

    assert runs == (tmp_path / "a.txt").exists()


async def test_can_use_tool_is_asked_last_and_may_change_the_input(tmp_path: Path) -> None:
    asked: list[Any] = []

    async def can_use_tool(name: str, tool_input: Mapping[str, Any], context: Any) -> Any:
        asked.append((name, dict(tool_input), context.tool_use_id))
        return {"behavior": "allow", "updated_input": {**tool_input, "content": "changed"}}

    backend = ScriptedBackend(one_turn(WRITE, repeat=True), directory=tmp_path)
    messages = await play(backend, "x", can_use_tool=can_use_tool)
    await play(backend, "x", can_use_tool=can_use_tool, allowed_tools=["write_file"])

    assert [("write_file", {"path": "a.txt", "content": "x"}, messages[1].tool_uses[0].id)] == asked


async def test_can_use_tool_may_deny_and_end_the_turn(tmp_path: Path) -> None:
    async def can_use_tool(name: str, tool_input: Any, context: Any) -> Any:
        return {"behavior": "deny", "message": "stop it", "interrupt": True}

    messages = await play(
        ScriptedBackend(one_turn(WRITE, Say("b")), directory=tmp_path),
        "x",
        can_use_tool=can_use_tool,
    )

    assert ["system/init", "assistant", "user", "result/error_during_execution"] == kinds(messages)
    assert ("stop it", "aborted_tools") == (
        messages[2].tool_results[0].content,
        messages[-1].raw["terminal_reason"],
    )


async def test_a_can_use_tool_that_fails_or_answers_rubbish_denies(tmp_path: Path) -> None:
    async def failing(name: str, tool_input: Any, context: Any) -> Any:
        raise RuntimeError("boom")

    async def rubbish(name: str, tool_input: Any, context: Any) -> Any:
        return "sure"

    for ask, text in ((failing, "boom"), (rubbish, "answered 'sure'")):
        messages = await play(ScriptedBackend(one_turn(WRITE), directory=tmp_path), "x", can_use_tool=ask)

        assert text in messages[2].tool_results[0].text
        assert not (tmp_path / "a.txt").exists()


async def test_defer_ends_the_turn_without_a_tool_result(tmp_path: Path) -> None:
    hooks = {"PreToolUse": [HookMatcher(hooks=[hook(pre("defer"))])]}

    messages = await play(ScriptedBackend(one_turn(WRITE), directory=tmp_path), "x", hooks=hooks)

    assert ["system/init", "assistant", "result/success"] == kinds(messages)
    assert "tool_deferred" == messages[-1].raw["stop_reason"]
    assert messages[1].tool_uses[0].id == messages[-1].raw["deferred_tool_use"]["id"]


async def test_continue_false_ends_the_turn_after_the_tool(tmp_path: Path) -> None:
    hooks = {"PreToolUse": [HookMatcher(hooks=[hook({"continue_": False})])]}

    messages = await play(ScriptedBackend(one_turn(WRITE, Say("b")), directory=tmp_path), "x", hooks=hooks)

    assert (tmp_path / "a.txt").exists()
    assert "hook_stopped" == messages[-1].raw["terminal_reason"]


async def test_every_hook_event_of_a_turn_is_called_with_its_input(tmp_path: Path) -> None:
    seen: list[Any] = []
    events = [
        "UserPromptSubmit",
        "PreToolUse",
        "PermissionRequest",
        "PostToolUse",
        "PostToolUseFailure",
        "Stop",
    ]
    hooks = {event: [HookMatcher(hooks=[hook({}, seen)])] for event in events}
    script = one_turn(WRITE, CallTool("read_file", {"path": "none"}), Say("bye"))

    messages = await play(ScriptedBackend(script, directory=tmp_path), "x", hooks=hooks)

    first, second = (m.tool_uses[0].id for m in messages if m.tool_uses)
    assert [
        ("UserPromptSubmit", None),
        ("PreToolUse", first),
        ("PermissionRequest", first),
        ("PostToolUse", first),
        ("PreToolUse", second),
        ("PermissionRequest", second),
        ("PostToolUseFailure", second),
        ("Stop", None),
    ] == [(event, tool_use_id) for event, tool_use_id, _input in seen]
    inputs = {event: hook_input for event, _id, hook_input in seen}
    assert all(messages[0].session_id == hook_input["session_id"] for hook_input in inputs.values())
    assert "x" == inputs["UserPromptSubmit"]["prompt"]
    assert "create" == inputs["PostToolUse"]["tool_response"]["type"]
    assert inputs["PostToolUse"]["duration_ms"] >= 0
    assert "No such file" in inputs["PostToolUseFailure"]["error"]
    assert "bye" == inputs["Stop"]["last_assistant_message"]


async def test_a_blocked_prompt_asks_nothing() -> None:
    hooks = {"UserPromptSubmit": [HookMatcher(hooks=[hook({"decision": "block", "reason": "not today"})])]}

    messages = await play(ScriptedBackend(one_turn(Say("never"))), "x", hooks=hooks)

    assert (["system/init", "result/success"], "not today") == (kinds(messages), messages[-1].text)


# -- interrupts and streaming input ---------------------------------------------------------------------
async def test_an_interrupt_stops_a_tool_and_ends_the_turn(tmp_path: Path) -> None:
    script = one_turn(CallTool("run_command", {"command": "echo $$ > pid; sleep 60"}), Say("never"))
    query = await ScriptedBackend(script, directory=tmp_path).start("x", QueryOptions())
    messages = []
    async with asyncio.timeout(5):
        async for message in query:
            messages.append(message)
            if message.tool_uses:
                asyncio.get_running_loop().call_later(0.2, lambda: asyncio.ensure_future(query.interrupt()))
    await query.aclose()

    assert ["system/init", "assistant", "user", "result/error_during_execution"] == kinds(messages)
    assert (True, "[Request interrupted by user for tool use]") == (
        messages[2].tool_results[0].is_error,
        messages[2].tool_results[0].content,
    )
    assert "aborted_tools" == messages[-1].raw["terminal_reason"]
    assert not (Path("/proc") / (tmp_path / "pid").read_text().strip()).exists()


async def test_an_interrupt_ends_a_delay_and_a_scripted_one_the_turn() -> None:
    query = await ScriptedBackend(one_turn(Delay(60), Say("never"))).start("x", QueryOptions())
    asyncio.get_running_loop().call_later(0.05, lambda: asyncio.ensure_future(query.interrupt()))
    async with asyncio.timeout(5):
        waited = [message async for message in query]
    await query.aclose()
    scripted = await play(ScriptedBackend(one_turn(Say("a"), Interrupt(), Say("never"))), "x")

    assert "aborted_streaming" == waited[-1].raw["terminal_reason"] == scripted[-1].raw["terminal_reason"]
    assert ["system/init", "assistant", "result/error_during_execution"] == kinds(scripted)


async def test_streamed_prompts_are_answered_one_after_the_other() -> None:
    async def prompts() -> AsyncIterator[Mapping[str, Any]]:
        yield user_message("one")
        yield {
            "type": "user",
            "message": {"role": "user", "content": [{"type": "text", "text": "two"}]},
        }

    messages = await play(ScriptedBackend(), prompts())

    assert ["You said: one", "You said: two"] == [m.text for m in messages if m.is_result]


async def test_an_error_of_the_callers_iterable_is_raised() -> None:
    async def prompts() -> AsyncIterator[Mapping[str, Any]]:
        yield user_message("one")
        raise LookupError("no more prompts")

    with pytest.raises(LookupError, match="no more prompts"):
        await play(ScriptedBackend(), prompts())


async def test_messages_can_be_sent_until_the_input_is_closed() -> None:
    query = await ScriptedBackend().start(None, QueryOptions())
    texts = []
    await query.send(user_message("one"))
    async for message in query:
        if message.is_result:
            texts.append(message.text)
            if len(texts) == 1:
                await query.send(user_message("two"))
                await query.close_input()
    await query.aclose()

    assert ["You said: one", "You said: two"] == texts
    with pytest.raises(StateError, match="the input of this query is closed"):
        await query.send(user_message("three"))


async def test_a_text_prompt_takes_no_more_messages() -> None:
    query = await ScriptedBackend().start("x", QueryOptions())

    with pytest.raises(StateError, match="streaming input is not enabled"):
        await query.send(user_message("more"))
    await query.aclose()


async def test_model_and_permission_mode_change_while_it_runs(tmp_path: Path) -> None:
    query = await ScriptedBackend(one_turn(WRITE, repeat=True), directory=tmp_path).start(None, QueryOptions())
    await query.send(user_message("one"))
    results = []
    async for message in query:
        if message.is_init:
            results.append((message.raw["model"], message.raw["permissionMode"]))
        if message.is_result and len(results) == 1:
            await query.set_model("other")
            await query.set_permission_mode("plan")
            await query.send(user_message("two"))
            await query.close_input()
    await query.aclose()

    assert [("scripted-1", "default"), ("other", "plan")] == results
    assert "one" == (tmp_path / "a.txt").read_text()
    with pytest.raises(UsageError, match="permission mode 'always' is unknown"):
        await query.set_permission_mode("always")


async def test_messages_are_iterated_once_and_closing_twice_is_fine() -> None:
    query = await ScriptedBackend().start("x", QueryOptions())
    async for _message in query:
        break
    with pytest.raises(StateError, match="once only"):
        aiter(query)

    await query.aclose()
    await query.aclose()


async def test_a_script_file_is_read_at_the_first_start(tmp_path: Path) -> None:
    path = tmp_path / "talk.yaml"
    backend = ScriptedBackend(path)
    with pytest.raises(ScriptError, match="cannot read the script"):
        await backend.start("x", QueryOptions())
    path.write_text("turns: [{steps: [{say: from a file}]}]")

    assert "from a file" == (await play(backend, "x"))[-1].text


def test_what_is_no_script_is_refused() -> None:
    with pytest.raises(UsageError, match="script must be a Script"):
        ScriptedBackend(script=["x"])  # type: ignore[arg-type]


async def test_an_interrupt_before_the_first_message_stops_the_turn_before_it_does_anything(tmp_path: Path) -> None:
    query = await ScriptedBackend(one_turn(WRITE, repeat=True), directory=tmp_path).start("x", QueryOptions())

    await query.interrupt()
    messages = [message async for message in query]
    await query.aclose()

    assert ["system/init", "result/error_during_execution"] == kinds(messages)
    assert not (tmp_path / "a.txt").exists()


async def test_an_interrupt_while_nothing_waits_does_not_touch_the_next_prompt() -> None:
    query = await ScriptedBackend().start(None, QueryOptions())
    await query.send(user_message("one"))
    results = []
    async for message in query:
        if message.is_result:
            results.append(message.is_error)
            if len(results) == 1:
                await query.interrupt()
                await query.send(user_message("two"))
                await query.close_input()
    await query.aclose()

    assert [False, False] == results


@pytest.mark.parametrize("updated", [None, "rubbish", ["x"]])
async def test_a_replaced_input_that_is_none_is_ignored(tmp_path: Path, updated: Any) -> None:
    hooks = {"PreToolUse": [HookMatcher(hooks=[hook(pre("allow", updatedInput=updated))])]}

    await play(ScriptedBackend(one_turn(WRITE), directory=tmp_path), "x", hooks=hooks)

    assert "x" == (tmp_path / "a.txt").read_text()
