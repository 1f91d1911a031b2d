"""
A stand-in for the Anthropic Messages API on loopback, for tests with the real ``claude`` command.

It answers what a script says, in the API's own words (server-sent events), and keeps every request. It knows no
model and reaches nothing: with :func:`claude_environment` neither does the command.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, final

from aiohttp import web

from agentlayers.runtime.message import text_of

__all__ = [
    "Answer",
    "ApiReply",
    "ApiRequest",
    "MessagesApi",
    "Script",
    "claude_environment",
    "say",
    "think",
    "use_tool",
]

REQUEST_BYTES_MAX: Final = 64 * 1024 * 1024
"""The whole conversation comes with every request."""

_PIECES: Final = 3
"""A text is streamed in so many pieces, so that partial messages have something to show."""

_SHUTDOWN_SECONDS: Final = 0.2


def say(text: str) -> dict[str, Any]:
    """Make a block in which the model says something."""
    return {"type": "text", "text": text}


def think(text: str) -> dict[str, Any]:
    """Make a block in which the model thinks."""
    return {"type": "thinking", "thinking": text, "signature": "signed"}


def use_tool(name: str, arguments: Mapping[str, Any], *, tool_use_id: str | None = None) -> dict[str, Any]:
    """Make a block in which the model calls a tool."""
    made = tool_use_id or f"toolu_{uuid.uuid4().hex[:24]}"
    return {"type": "tool_use", "id": made, "name": name, "input": dict(arguments)}


@final
@dataclass(frozen=True, slots=True)
class ApiReply:
    """
    One answer of the model.

    Attributes:
        blocks: What it says, thinks and calls (see :func:`say`, :func:`think`, :func:`use_tool`).
        stop_reason: Why it stopped; found from the blocks if not given.
        status: Another HTTP status than 200 answers with an error instead.
        error_type: Of the error, such as ``overloaded_error``.
        error_message: Of the error.
        hangs: Begins to answer and never goes on, until the other side gives up.
        piece_seconds: Pause between two pieces of a text.
    """

    blocks: Sequence[Mapping[str, Any]] = ()
    stop_reason: str | None = None
    status: int = 200
    error_type: str = "api_error"
    error_message: str = "an error of the stand-in"
    hangs: bool = False
    piece_seconds: float = 0.0


@final
@dataclass(frozen=True, slots=True)
class ApiRequest:
    """
    One request the stand-in got.

    Attributes:
        method: Of HTTP.
        path: Without the query.
        body: The decoded JSON; :obj:`None` if there was none.
        had_credentials: A key or a token came with it; neither is kept.
    """

    method: str
    path: str
    body: Any
    had_credentials: bool

    @property
    def is_conversation(self) -> bool:
        """The request asks the model for its next answer."""
        return self.method == "POST" and self.path == "/v1/messages" and not self.is_probe

    @property
    def is_probe(self) -> bool:
        """The request only tries out whether there is such a model; no script is asked about it."""
        return isinstance(self.body, Mapping) and self.body.get("max_tokens") == 1

    @property
    def messages(self) -> list[Mapping[str, Any]]:
        """The conversation so far."""
        found = self.body.get("messages") if isinstance(self.body, Mapping) else None
        return found if isinstance(found, list) else []

    @property
    def last_blocks(self) -> list[Mapping[str, Any]]:
        """What the model is told last."""
        for message in reversed(self.messages):
            if message.get("role") == "user":
                content = message.get("content")
                return [say(content)] if isinstance(content, str) else list(content or ())
        return []

    @property
    def prompt(self) -> str:
        """The text the model is told last."""
        return text_of(self.last_blocks)

    @property
    def tool_results(self) -> list[Mapping[str, Any]]:
        """The results of tools the model is told last."""
        return [block for block in self.last_blocks if block.get("type") == "tool_result"]

    @property
    def tool_names(self) -> list[str]:
        """The tools the model may call."""
        tools = self.body.get("tools") if isinstance(self.body, Mapping) else None
        return [str(tool.get("name")) for tool in tools or ()]


Answer = ApiReply | str | Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""A reply; or a text, a block or blocks that become one."""

Script = Callable[[ApiRequest], Answer | Awaitable[Answer]] | Sequence[Answer]
"""Called for each request; or answers given in turn, the last one again and again."""


@final
@dataclass(slots=True)
class _Heard:
    requests: list[ApiRequest] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


@final
class MessagesApi:
    """
    Listens on loopback while it is entered; an async context manager.

    Usage::

        async with MessagesApi([use_tool("Bash", {"command": "id -u"}), "done"]) as api:
            environment = claude_environment(api.url, tmp_path)

    Args:
        script: What to answer.

    Attributes:
        url: Where it listens, once entered; the value of ``ANTHROPIC_BASE_URL``.
    """

    def __init__(self, script: Script = "Hello from the stand-in.") -> None:
        self._script: Script = ()
        self._answered = 0
        self.play(script)
        self._heard = _Heard()
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=REQUEST_BYTES_MAX)
        application.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        self._runner = runner
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()

    def play(self, script: Script) -> None:
        """Answer by another script from now on."""
        self._script = [script] if isinstance(script, str) else script
        self._answered = 0

    # -- what was asked ---------------------------------------------------------------------------------
    @property
    def all_requests(self) -> list[ApiRequest]:
        """Everything that came, in order."""
        return list(self._heard.requests)

    @property
    def requests(self) -> list[ApiRequest]:
        """What came for the model, in order."""
        return [request for request in self._heard.requests if request.is_conversation]

    async def until_asked(self, times: int = 1) -> ApiRequest:
        """Wait for the model to be asked so many times since the start, and return that request."""
        while len(self.requests) < times:
            self._heard.changed.clear()
            await self._heard.changed.wait()
        return self.requests[times - 1]

    # -- answering --------------------------------------------------------------------------------------
    async def _serve(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = None
        headers = {name.lower() for name in request.headers}
        asked = ApiRequest(request.method, request.path, body, bool(headers & {"x-api-key", "authorization"}))
        self._heard.requests.append(asked)
        self._heard.changed.set()
        if asked.is_conversation:
            return await self._answer(request, asked)
        if asked.is_probe:
            return web.json_response(_message_of(ApiReply([say("Hi")]), str(asked.body.get("model"))))
        if request.path == "/v1/messages/count_tokens":
            return web.json_response({"input_tokens": max(1, len(raw) // 4)})
        return _error(404, "not_found_error", f"the stand-in has no {request.path}")

    async def _answer(self, request: web.Request, asked: ApiRequest) -> web.StreamResponse:
        reply = _reply_of(await self._scripted(asked))
        if reply.status != 200:
            return _error(reply.status, reply.error_type, reply.error_message)
        message = _message_of(reply, str(asked.body.get("model") or "stand-in"))
        if not asked.body.get("stream"):
            return web.json_response(message)
        return await self._stream(request, reply, message)

    async def _scripted(self, asked: ApiRequest) -> Answer:
        if callable(self._script):
            answer = self._script(asked)
            return await answer if isinstance(answer, Awaitable) else answer
        index = min(self._answered, len(self._script) - 1)
        self._answered += 1
        return self._script[index]

    async def _stream(self, request: web.Request, reply: ApiReply, message: Mapping[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
        await response.prepare(request)
        try:
            for event, is_piece in _events(message):
                await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
                if reply.hangs:
                    await self._closing.wait()
                    break
                if is_piece and reply.piece_seconds:
                    await asyncio.sleep(reply.piece_seconds)
            await response.write_eof()
        except ConnectionError:
            pass  # the other side gave up, as after an interrupt
        return response


def _reply_of(answer: Answer) -> ApiReply:
    if isinstance(answer, ApiReply):
        return answer
    if isinstance(answer, str):
        return ApiReply([say(answer)])
    return ApiReply([answer] if isinstance(answer, Mapping) else answer)


def _message_of(reply: ApiReply, model: str) -> dict[str, Any]:
    calls_tool = any(block.get("type") == "tool_use" for block in reply.blocks)
    return {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [dict(block) for block in reply.blocks],
        "stop_reason": reply.stop_reason or ("tool_use" if calls_tool else "end_turn"),
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 5},
    }


def _events(message: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], bool]]:
    """Cut a message into the events of a stream, and tell which are pieces of a text."""
    started = {**message, "content": [], "stop_reason": None}
    yield {"type": "message_start", "message": started}, False
    for index, block in enumerate(message["content"]):
        empty, deltas = _cut(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}, False
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}, True
        yield {"type": "content_block_stop", "index": index}, False
    stopped = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": stopped, "usage": {"output_tokens": 5}}, False
    yield {"type": "message_stop"}, False


def _cut(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    kind = block["type"]
    if kind == "text":
        text = block["text"]
        size = max(1, -(-len(text) // _PIECES))
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        return {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces]
    if kind == "thinking":
        thinking = {"type": "thinking_delta", "thinking": block["thinking"]}
        signature = {"type": "signature_delta", "signature": block["signature"]}
        return {"type": "thinking", "thinking": "", "signature": ""}, [thinking, signature]
    arguments = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    return {**block, "input": {}}, [arguments]


def _error(status: int, kind: str, message: str) -> web.Response:
    # Told not to try again, the command fails at once instead of after its pauses.
    body = {"type": "error", "error": {"type": kind, "message": message}}
    return web.json_response(body, status=status, headers={"x-should-retry": "false"})


def claude_environment(url: str, home: str | Path) -> dict[str, str]:
    """
    Make the environment in which the ``claude`` command talks to ``url`` alone and writes under ``home`` alone.

    Args:
        url: Of a :class:`MessagesApi`.
        home: A directory of the test; the directories in it are made by the command.
    """
    base = Path(home)
    return {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "no-secret",
        "HOME": str(base),
        "CLAUDE_CONFIG_DIR": str(base / ".claude"),
        "CLAUDE_CODE_TMPDIR": str(base / "tmp"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "0",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
