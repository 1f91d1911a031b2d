"""
One running scripted agent: plays turns, runs their tools, and tells it in the messages of a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, final

from agentlayers.errors import BackendError, StateError, UsageError
from agentlayers.runtime.backend import BackendQuery, Control, Prompt
from agentlayers.runtime.frames import Frames
from agentlayers.runtime.hooks import run_hooks
from agentlayers.runtime.message import AgentMessage, text_of, user_message
from agentlayers.runtime.options import PERMISSION_MODES, QueryOptions
from agentlayers.runtime.permissions import Permission, ask_permission
from agentlayers.runtime.query_input import QueryInput
from agentlayers.runtime.script import (
    CallTool,
    Delay,
    Fail,
    Interrupt,
    Say,
    Script,
    Step,
    Think,
    Turn,
    render,
)
from agentlayers.runtime.tools import TOOL_NAMES, ToolOutcome, Workspace

__all__ = ["ScriptProgress", "ScriptedQuery"]

T = TypeVar("T")

INTERRUPTED_TOOL: Final = "[Request interrupted by user for tool use]"
"""What a tool call that was interrupted came to, in the words of the real software."""


@final
@dataclass(slots=True)
class ScriptProgress:
    """
    How far one session is in the script.

    Attributes:
        used: Turns that have answered and may not answer again.
        prompts: Prompts answered so far.
    """

    used: set[int] = field(default_factory=set)
    prompts: int = 0

    def next_turn(self, script: Script, prompt: str) -> Turn | None:
        """Take the first turn that answers the prompt."""
        self.prompts += 1
        for index, turn in enumerate(script.turns):
            if index not in self.used and turn.answers(prompt):
                if not turn.repeat:
                    self.used.add(index)
                return turn
        return None


@dataclass(slots=True)
class _TurnState:
    prompt: str
    number: int
    started: float
    result: str = ""
    said: str = ""
    replies: int = 0
    message_id: str = ""
    denials: list[dict[str, Any]] = field(default_factory=list)

    @property
    def names(self) -> dict[str, str]:
        return {"prompt": self.prompt, "result": self.result, "turn": str(self.number)}


class _TurnEnded(Exception):  # noqa: N818 - a way out of nested steps, not an error
    """The turn ends here, with these fields in its result."""

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.fields = fields


def _aborted(terminal_reason: str) -> _TurnEnded:
    return _TurnEnded(
        subtype="error_during_execution",
        is_error=True,
        stop_reason="tool_use" if terminal_reason == "aborted_tools" else None,
        terminal_reason=terminal_reason,
        errors=["the turn was interrupted"],
    )


def _failed(message: str) -> _TurnEnded:
    return _TurnEnded(
        subtype="error_during_execution",
        is_error=True,
        stop_reason=None,
        terminal_reason="api_error",
        errors=[message],
        result=message,
    )


@final
class ScriptedQuery(BackendQuery):
    """See :class:`~agentlayers.runtime.scripted.ScriptedBackend`, which makes these."""

    def __init__(
        self,
        prompt: Prompt,
        options: QueryOptions,
        *,
        script: Script,
        progress: ScriptProgress,
        frames: Frames,
        workspace: Workspace,
        dispose: Callable[[], None] | None,
    ) -> None:
        self._prompt = prompt
        self._options = options
        self._script = script
        self._progress = progress
        self._frames = frames
        self._workspace = workspace
        self._dispose = dispose
        self._mode = options.permission_mode or "default"
        self._model = frames.model
        self._input = QueryInput(streaming=not isinstance(prompt, str))
        self._interrupted = asyncio.Event()
        self._in_turn = False
        self._begun = False
        self._messages: AsyncGenerator[AgentMessage, None] | None = None
        self._feeder: asyncio.Task[None] | None = None
        self._closed = False

    # -- the port ---------------------------------------------------------------------------------------
    def __aiter__(self) -> AsyncIterator[AgentMessage]:
        if self._messages is not None:
            raise StateError("the messages of a query can be iterated once only")
        self._messages = self._play()
        return self._messages

    async def send(self, message: Mapping[str, Any]) -> None:
        """Queue one more prompt."""
        await self._input.send(message)

    async def close_input(self) -> None:
        """End after the prompts that are queued."""
        await self._input.close()

    async def interrupt(self) -> None:
        """Stop the running turn, and the tool in it."""
        # A prompt that waits is as good as running: its turn ends before it does anything.
        if self._in_turn or not self._begun or self._input.is_waiting:
            self._interrupted.set()

    async def set_model(self, model: str | None) -> None:
        """Name another model in the messages."""
        self._frames.model = model or self._model

    async def set_permission_mode(self, mode: str) -> None:
        """Decide about tools in another way from now on."""
        if mode not in PERMISSION_MODES:
            raise UsageError(f"permission mode {mode!r} is unknown; it is one of {', '.join(PERMISSION_MODES)}")
        self._mode = mode

    async def control(self, request: Control, **arguments: Any) -> Any:
        """Answer as an agent without commands, MCP servers and account."""
        if request == "initialization_result":
            models = [{"value": self._model, "displayName": self._model, "description": "Plays a script."}]
            return {"commands": [], "agents": [], "models": models, "account": {}}
        if request == "mcp_server_status":
            return []
        return await super().control(request, **arguments)

    async def aclose(self) -> None:
        """Stop everything and remove the temporary directory."""
        if self._closed:
            return
        self._closed = True
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.gather(self._feeder, return_exceptions=True)
        if self._messages is not None:
            await self._messages.aclose()
        if self._dispose is not None:
            await asyncio.to_thread(self._dispose)

    # -- turns ------------------------------------------------------------------------------------------
    async def _play(self) -> AsyncGenerator[AgentMessage, None]:
        self._feeder = asyncio.create_task(self._feed(), name="scripted-input")
        while (prompt := await self._input.get()) is not None:
            self._begun = True
            async with contextlib.aclosing(self._turn(_prompt_text(prompt))) as messages:
                async for message in messages:
                    yield message
        await self._feeder  # an error of the caller's iterable is the caller's to see

    async def _feed(self) -> None:
        try:
            if isinstance(self._prompt, str):
                await self._input.put(user_message(self._prompt, session_id=self._frames.session_id))
            elif self._prompt is not None:
                async for message in self._prompt:
                    await self._input.put(message)
            else:
                return  # the input stays open for send
        except StateError:
            return  # closed while the prompt still had something to say
        except BaseException:
            await self._input.close()
            raise
        await self._input.close()

    async def _turn(self, prompt: str) -> AsyncGenerator[AgentMessage, None]:
        self._in_turn = True
        turn = self._progress.next_turn(self._script, prompt)
        state = _TurnState(prompt, self._progress.prompts, time.monotonic())
        try:
            submitted = await self._hooks("UserPromptSubmit", prompt=prompt)
            yield self._frames.init(cwd=str(self._workspace.root), tools=TOOL_NAMES, permission_mode=self._mode)
            if submitted.behavior == "deny":
                raise _TurnEnded(stop_reason=None, result=submitted.reason)
            if turn is None:
                raise _failed(
                    f"{self._script.source}: no turn is left that answers {prompt!r}; add one, or set repeat on a turn"
                )
            async with contextlib.aclosing(self._steps(turn, state)) as messages:
                async for message in messages:
                    yield message
            await self._hooks("Stop", stop_hook_active=False, last_assistant_message=state.said)
            ended = _TurnEnded(stop_reason="end_turn")
        except _TurnEnded as early:
            ended = early
            if ended.fields.get("terminal_reason") == "api_error":
                await self._hooks(
                    "StopFailure",
                    error=ended.fields["errors"][0],
                    last_assistant_message=state.said,
                )
        finally:
            self._in_turn = False
            self._interrupted.clear()
        yield self._result(state, ended)

    def _result(self, state: _TurnState, ended: _TurnEnded) -> AgentMessage:
        fields: dict[str, Any] = {
            "subtype": "success",
            "is_error": False,
            "duration_ms": round((time.monotonic() - state.started) * 1000),
            "num_turns": state.replies,
            "result": state.said,
            "permission_denials": state.denials,
            "terminal_reason": "completed",
        }
        return self._frames.result(**{**fields, **ended.fields})

    # -- steps ------------------------------------------------------------------------------------------
    async def _steps(self, turn: Turn, state: _TurnState) -> AsyncGenerator[AgentMessage, None]:
        for step in turn.steps:
            # A script without delays would never let an interrupt, or anybody else, have a turn.
            await asyncio.sleep(0)
            if self._interrupted.is_set():
                raise _aborted("aborted_streaming")
            async with contextlib.aclosing(self._step(step, state)) as messages:
                async for message in messages:
                    yield message

    async def _step(self, step: Step, state: _TurnState) -> AsyncGenerator[AgentMessage, None]:
        match step:
            case Say(text):
                for message in self._say(render(text, state.names), state):
                    yield message
            case Think(text):
                block = {"type": "thinking", "thinking": render(text, state.names), "signature": ""}
                yield self._frames.assistant(block, message_id=self._reply(state))
            case CallTool():
                async for message in self._call_tool(step, state):
                    yield message
            case Delay(seconds):
                await self._interruptible(asyncio.sleep(seconds), "aborted_streaming")
            case Fail(message=problem, crash=True):
                raise BackendError(f"the scripted agent broke down: {problem}")
            case Fail(message=problem):
                raise _failed(problem)
            case Interrupt():
                raise _aborted("aborted_streaming")

    def _say(self, text: str, state: _TurnState) -> list[AgentMessage]:
        message_id = self._reply(state)
        state.said = text
        whole = self._frames.assistant({"type": "text", "text": text}, message_id=message_id)
        if not self._options.include_partial_messages:
            return [whole]
        first, *others = text.split(" ")
        pieces = [first, *(f" {word}" for word in others)]
        return [*(self._frames.text_delta(piece) for piece in pieces), whole]

    def _reply(self, state: _TurnState) -> str:
        """Return the id of the reply in progress; a new one begins after each tool result."""
        if not state.message_id:
            limit = self._options.max_turns
            if limit is not None and state.replies >= limit:
                raise _TurnEnded(
                    subtype="error_max_turns",
                    is_error=True,
                    stop_reason="tool_use",
                    terminal_reason="max_turns",
                    errors=[f"Reached maximum number of turns ({limit})"],
                )
            state.message_id = self._frames.new_id("msg_")
            state.replies += 1
        return state.message_id

    async def _call_tool(self, step: CallTool, state: _TurnState) -> AsyncGenerator[AgentMessage, None]:
        tool_use_id = self._frames.new_id("toolu_")
        arguments = render(step.input, state.names)
        block = {"type": "tool_use", "id": tool_use_id, "name": step.name, "input": arguments}
        yield self._frames.assistant(block, message_id=self._reply(state))
        state.message_id = ""
        about = {"tool_name": step.name, "tool_input": arguments, "tool_use_id": tool_use_id}
        try:
            permission = await self._interruptible(
                ask_permission(self._options, self._mode, self._hook_input("PreToolUse", **about), tool_use_id),
                "aborted_tools",
            )
            if permission.defer:
                deferred = {"id": tool_use_id, "name": step.name, "input": arguments}
                raise _TurnEnded(
                    stop_reason="tool_deferred",
                    terminal_reason="tool_deferred",
                    deferred_tool_use=deferred,
                )
            outcome = await self._run_tool(step.name, permission, about, state)
        except _TurnEnded as ended:
            if ended.fields.get("terminal_reason") == "aborted_tools":
                yield self._frames.tool_result(
                    tool_use_id,
                    INTERRUPTED_TOOL,
                    is_error=True,
                    structured=f"Error: {INTERRUPTED_TOOL}",
                )
            raise
        state.result = outcome.content
        yield self._frames.tool_result(
            tool_use_id, outcome.content, is_error=outcome.is_error, structured=outcome.structured
        )
        if permission.interrupt:
            raise _aborted("aborted_tools")
        if permission.stop:
            raise _TurnEnded(stop_reason="tool_use", terminal_reason="hook_stopped")

    async def _run_tool(
        self, name: str, permission: Permission, about: Mapping[str, Any], state: _TurnState
    ) -> ToolOutcome:
        if not permission.granted:
            state.denials.append(dict(about))
            return ToolOutcome.failed(permission.reason)
        started = time.monotonic()
        outcome = await self._interruptible(self._workspace.call(name, permission.input), "aborted_tools")
        told = {
            **about,
            "tool_input": permission.input,
            "duration_ms": round((time.monotonic() - started) * 1000),
        }
        if outcome.is_error:
            after = self._hooks("PostToolUseFailure", error=outcome.content, is_interrupt=False, **told)
        else:
            after = self._hooks("PostToolUse", tool_response=outcome.structured, **told)
        await self._interruptible(after, "aborted_tools")
        return outcome

    # -- hooks and interrupts -----------------------------------------------------------------------------
    def _hook_input(self, event: str, **fields: Any) -> dict[str, Any]:
        return {
            "session_id": self._frames.session_id,
            "transcript_path": "",
            "cwd": str(self._workspace.root),
            "permission_mode": self._mode,
            "hook_event_name": event,
            **fields,
        }

    async def _hooks(self, event: str, **fields: Any) -> Any:
        return await run_hooks(self._options.hooks, event, self._hook_input(event, **fields), fields.get("tool_use_id"))

    async def _interruptible(self, work: Coroutine[Any, Any, T], terminal_reason: str) -> T:
        """Await ``work``, or stop it and end the turn when an interrupt comes first."""
        task = asyncio.ensure_future(work)
        interrupt = asyncio.ensure_future(self._interrupted.wait())
        try:
            await asyncio.wait({task, interrupt}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _aborted(terminal_reason)
            return task.result()
        finally:
            task.cancel()
            interrupt.cancel()
            await asyncio.gather(task, interrupt, return_exceptions=True)


def _prompt_text(message: Mapping[str, Any]) -> str:
    inner = message.get("message")
    content = inner.get("content") if isinstance(inner, Mapping) else None
    return text_of(content)
