"""
One running ``claude`` command, driven through ``ClaudeSDKClient``.

Three tasks belong to it: the SDK's reader, a *drain* that takes every message off the SDK at once (an SDK whose
messages nobody takes stops serving hooks, permissions, tools and interrupts), and, for a prompt that is a stream,
a *feeder*. Messages are the wire objects themselves; the SDK's dataclasses drop fields.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Mapping
from typing import Any, Final, TypeVar, final

from agentlayers.errors import AgentLayersError, BackendError, StateError, UsageError
from agentlayers.logs import get_logger
from agentlayers.runtime.backend import BackendQuery, Control, Prompt
from agentlayers.runtime.claude_controls import claude_control
from agentlayers.runtime.claude_errors import ClaudeExitError, ClaudeLoginError, translate_error
from agentlayers.runtime.claude_process import ClaudeProcess
from agentlayers.runtime.claude_progress import ClaudeProgress
from agentlayers.runtime.message import AgentMessage, user_message
from agentlayers.runtime.options import PERMISSION_MODES
from agentlayers.runtime.query_input import QueryInput

__all__ = ["ClaudeQuery", "StderrTail"]

logger = get_logger(__name__)

T = TypeVar("T")

STDERR_LINES_KEPT: Final = 50
"""Of what the command wrote to stderr; often the only place where the reason of a failure stands."""

INTERRUPT_SECONDS_MAX: Final = 2.0
"""How long an interrupt may take; a command that works answers within milliseconds."""

_LINGER_SECONDS: Final = 0.05
"""After the last of several prompts, for one that the command had not read yet when it said it was idle."""


@final
class StderrTail:
    """Keeps the last lines of stderr, and passes each on to the caller's own callback."""

    def __init__(self, callback: Any = None) -> None:
        self.lines: deque[str] = deque(maxlen=STDERR_LINES_KEPT)
        self._callback = callback

    def __call__(self, line: str) -> None:
        """Take one line."""
        self.lines.append(line)
        if self._callback is not None:
            self._callback(line)


@final
class ClaudeQuery(BackendQuery):
    """
    See :class:`~agentlayers.runtime.claude.ClaudeBackend`, which makes these.

    Args:
        prompt: What to ask.
        client: A ``ClaudeSDKClient`` that is not connected yet.
        process: Watches over the command's process.
        stderr: What the command writes there.
    """

    reads_ahead = True

    def __init__(self, prompt: Prompt, *, client: Any, process: ClaudeProcess, stderr: StderrTail) -> None:
        self._prompt = prompt
        self._client = client
        self._process = process
        self._stderr = stderr
        self._progress = ClaudeProgress()
        self._input = QueryInput(streaming=not isinstance(prompt, str))
        self._frames: deque[AgentMessage] = deque()
        self._changed = asyncio.Event()
        self._drained = False
        self._error: Exception | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._drain: asyncio.Task[None] | None = None
        self._feeder: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._iterated = False

    # -- life -------------------------------------------------------------------------------------------
    async def open(self) -> None:
        """
        Start the command and ask it.

        Raises:
            BackendError: It did not start, or broke down while it did; nothing of it is left.
            ConfigurationError: There is no such command.
            UsageError: It or the SDK refuses an option.
        """
        if isinstance(self._prompt, str):
            # Before anything runs, so that an interrupt finds what it is meant for, however early it comes.
            await self._input.put(user_message(self._prompt))
            await self._input.close()
        # In a task of its own, so that a cancelled start is cleaned up to its end.
        self._connecting = asyncio.create_task(self._client.connect(self._input_messages()), name="claude-connect")
        try:
            await asyncio.shield(self._connecting)
        except asyncio.CancelledError:
            await self.aclose()
            raise
        except Exception as error:
            await self.aclose()
            raise translate_error(error, stderr=list(self._stderr.lines)) from error
        self._process.attach(_process_of(self._client))
        self._drain = asyncio.create_task(self._take_all(), name="claude-drain")
        if isinstance(self._prompt, AsyncIterable):
            self._feeder = asyncio.create_task(self._feed(self._prompt), name="claude-input")

    async def aclose(self) -> None:
        """End the command and everything it started; goes on in the background when cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="claude-close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._process.attach(_process_of(self._client))
        await _cancelled(self._feeder)
        await self._input.close()
        is_connected = self._connecting is not None and self._connecting.done() and self._drain is not None
        if is_connected and self._process.is_alive and self._progress.is_running:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(INTERRUPT_SECONDS_MAX):
                    await self._client.interrupt()
                    await self._progress.until_settled()
        # A command that has not even started has nothing to write down, so it need not be asked twice.
        hurrying = asyncio.create_task(self._process.hurry(at_once=not is_connected))
        try:
            await _cancelled(self._connecting)
            await self._client.disconnect()
        except Exception as error:  # noqa: BLE001 - the process is seen to below, whatever the SDK says
            logger.warning("claude_disconnect_failed", error=str(error), error_type=type(error).__name__)
        finally:
            await _cancelled(hurrying)
            await self._process.ensure_gone()
            await _cancelled(self._drain)
            _close_stream_of(self._client)
            self._finish(None)

    @property
    def mark(self) -> str:
        """Names this query in the environment of all its processes."""
        return self._process.mark

    # -- reading ----------------------------------------------------------------------------------------
    def __aiter__(self) -> AsyncIterator[AgentMessage]:
        if self._iterated:
            raise StateError("the messages of a query can be iterated once only")
        self._iterated = True
        return self._messages()

    async def _messages(self) -> AsyncIterator[AgentMessage]:
        while True:
            while self._frames:
                yield self._frames.popleft()
            if self._drained:
                break
            self._changed.clear()
            await self._changed.wait()
        if self._feeder is not None and self._feeder.done() and not self._feeder.cancelled():
            self._feeder.result()  # an error of the caller's iterable is the caller's to see
        if self._error is not None:
            raise self._error

    async def _take_all(self) -> None:
        try:
            async for frame in _frames_of(self._client):
                if self._progress.observe(frame):
                    # Unbounded on purpose: see the module's text. What an agent says between two reads is finite.
                    self._frames.append(AgentMessage(frame))
                    self._changed.set()
            self._finish(self._verdict(None))
        except Exception as error:  # noqa: BLE001 - raised to the reader, who is elsewhere
            self._finish(self._verdict(error))

    def _verdict(self, error: Exception | None) -> Exception | None:
        """Decide what the end of the messages means; a result that tells of an error has told it already."""
        if self._closing is not None:
            return None
        result = self._progress.last_result
        told = result is not None and result.get("is_error") is True
        if self._progress.login_failed and result is not None:
            return ClaudeLoginError(
                f"the API refused the credentials ({result.get('result')}); "
                "set ANTHROPIC_API_KEY, in the environment or in the option env"
            )
        if error is not None and not (told and type(error).__name__ == "ResultError"):
            return translate_error(error, stderr=list(self._stderr.lines))
        if error is None and self._progress.is_running:
            return ClaudeExitError(None, reason=" | ".join(self._stderr.lines))
        return None

    def _finish(self, error: Exception | None) -> None:
        if not self._drained:
            self._drained = True
            self._error = error
        self._progress.ended()
        self._changed.set()

    # -- writing ----------------------------------------------------------------------------------------
    async def send(self, message: Mapping[str, Any]) -> None:
        """Queue one more prompt."""
        await self._input.send(message)

    async def close_input(self) -> None:
        """End after the prompts that are queued."""
        await self._input.close()

    async def _input_messages(self) -> AsyncIterator[dict[str, Any]]:
        """
        Yield the prompts to the SDK, which writes them.

        It closes the command's input when this ends, so this ends only when the command owes nothing more.
        """
        prompts = 0
        while (message := await self._input.get()) is not None:
            prompts += 1
            self._progress.prompt_written()
            # The command checks the id of its session; it calls the one it has "default".
            yield {**message, "session_id": message.get("session_id") or "default"}
        await self._progress.until_settled()
        while prompts > 1:
            await asyncio.sleep(_LINGER_SECONDS)
            if not self._progress.is_running:
                return
            await self._progress.until_settled()

    async def _feed(self, prompts: AsyncIterable[Mapping[str, Any]]) -> None:
        try:
            async for message in prompts:
                await self._input.put(message)
        except StateError:
            return  # closed while the prompt still had something to say
        finally:
            await self._input.close()

    # -- control ----------------------------------------------------------------------------------------
    async def interrupt(self) -> None:
        """Stop the current turn and its tool."""
        if self._drained or self._closing is not None or not (self._progress.is_running or self._input.is_waiting):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTERRUPT_SECONDS_MAX):
                await self._progress.until_begun()
        if self._drained or not self._progress.is_running:
            return
        await self._control(self._client.interrupt())

    async def set_model(self, model: str | None) -> None:
        """Use another model from the next turn on."""
        await self._control(self._client.set_model(model))

    async def set_permission_mode(self, mode: str) -> None:
        """Decide about tools in another way from now on."""
        if mode not in PERMISSION_MODES:
            raise UsageError(f"permission mode {mode!r} is unknown; it is one of {', '.join(PERMISSION_MODES)}")
        await self._control(self._client.set_permission_mode(mode))

    async def control(self, request: Control, **arguments: Any) -> Any:
        """Ask the command something else; see :mod:`agentlayers.runtime.claude_controls`."""
        return await self._control(claude_control(self._client, request, arguments))

    async def _control(self, request: Awaitable[T]) -> T:
        try:
            return await request
        except AgentLayersError:
            raise
        except Exception as error:
            raise BackendError(f"the claude command refused: {error}") from error


def _frames_of(client: Any) -> AsyncIterator[Mapping[str, Any]]:
    # The public receive_messages() parses these same objects into dataclasses that drop fields.
    query = getattr(client, "_query", None)
    if query is None or not hasattr(query, "receive_messages"):
        raise BackendError("this release of claude-agent-sdk is not known here; install another one (>= 0.2.187)")
    frames: AsyncIterator[Mapping[str, Any]] = query.receive_messages()
    return frames


def _close_stream_of(client: Any) -> None:
    """Close what the SDK leaves open when its closing is cut short."""
    query = getattr(client, "_query", None)
    if query is not None and hasattr(query, "close_receive_stream"):
        query.close_receive_stream()


def _process_of(client: Any) -> Any:
    return getattr(getattr(client, "_transport", None), "_process", None)


async def _cancelled(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task and wait until it has ended, however it does."""
    if task is not None and task is not asyncio.current_task():
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen
