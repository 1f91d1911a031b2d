"""A backend query driven by a test, for what a script cannot do: stalling, ignoring interrupts, failing to close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from agentlayers.runtime.backend import AgentBackend, BackendQuery, Prompt
from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.options import QueryOptions

INIT = {"type": "system", "subtype": "init", "session_id": "s", "uuid": "u0"}
RESULT = {
    "type": "result",
    "subtype": "success",
    "is_error": False,
    "session_id": "s",
    "result": "ok",
}
INTERRUPTED = {
    "type": "result",
    "subtype": "error_during_execution",
    "is_error": True,
    "session_id": "s",
}


def said(text: str, session_id: str = "s") -> dict[str, Any]:
    return {
        "type": "assistant",
        "session_id": session_id,
        "message": {"role": "assistant", "content": [{"type": "text", "text": text}]},
    }


class FakeQuery(BackendQuery):
    """Yields what is put into ``feed``; an exception is raised, None ends the stream."""

    def __init__(self, *messages: Mapping[str, Any] | BaseException | None, obeys: bool = True) -> None:
        self.feed: asyncio.Queue[Any] = asyncio.Queue()
        for message in messages:
            self.feed.put_nowait(message)
        self.obeys = obeys
        self.calls: list[str] = []
        self.sent: list[Mapping[str, Any]] = []
        self.closed = asyncio.Event()
        self.owner: asyncio.Task[Any] | None = None

    async def __aiter__(self) -> AsyncIterator[AgentMessage]:
        self.owner = asyncio.current_task()
        while (message := await self.feed.get()) is not None:
            if isinstance(message, BaseException):
                raise message
            yield AgentMessage(message)

    async def send(self, message: Mapping[str, Any]) -> None:
        self.sent.append(message)

    async def close_input(self) -> None:
        self.calls.append("close_input")

    async def interrupt(self) -> None:
        self.calls.append("interrupt")
        if self.obeys:
            self.feed.put_nowait(INTERRUPTED)
            self.feed.put_nowait(None)

    async def set_model(self, model: str | None) -> None:
        self.calls.append(f"set_model {model}")

    async def set_permission_mode(self, mode: str) -> None:
        self.calls.append(f"set_permission_mode {mode}")

    async def aclose(self) -> None:
        assert self.owner in {None, asyncio.current_task()}, "closed by another task than the one that iterates"
        self.closed.set()


class FakeBackend(AgentBackend):
    """Starts the queries it is given, after the errors it is given."""

    def __init__(self, *queries: FakeQuery, errors: tuple[Exception, ...] = ()) -> None:
        self.queries = list(queries)
        self.errors = list(errors)
        self.started: list[tuple[Prompt, QueryOptions]] = []

    async def start(self, prompt: Prompt, options: QueryOptions) -> FakeQuery:
        self.started.append((prompt, options))
        if self.errors:
            raise self.errors.pop(0)
        return self.queries.pop(0)
