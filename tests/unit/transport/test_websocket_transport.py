"""The WebSocket transport against a real aiohttp server on loopback."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import WSCloseCode, WSMsgType, web

from agentlayers import limits
from agentlayers.errors import AuthenticationError, ConnectError, ConnectionLostError, SettingsError
from agentlayers.transport.failure import describe_failure
from agentlayers.transport.websocket import WebSocketTransport

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """Serve one handler on any path and a free port."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"ws://{host}:{port}"
    finally:
        await runner.cleanup()


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_frames_travel_both_ways_and_the_token_is_in_the_header() -> None:
    """The path names the tenant; the token is nowhere in the request line."""
    seen: dict[str, str] = {}

    async def echo(request: web.Request) -> web.StreamResponse:
        seen.update(path=request.path_qs, token=request.headers.get("Authorization", ""))
        answer = web.WebSocketResponse(compress=True)
        await answer.prepare(request)
        seen["extensions"] = answer.headers.get("Sec-WebSocket-Extensions", "")
        async for message in answer:
            await answer.send_bytes(message.data)
        return answer

    async with serving(echo) as url:
        connection = await WebSocketTransport(url, "s3cr3t", "team").connect()
        await connection.send(b"one")
        await connection.send(b"")
        received = [await connection.receive(), await connection.receive()]
        await connection.close()
        await connection.close()

    assert received == [b"one", b""]
    assert seen == {"path": "/event-log/team", "token": "Bearer s3cr3t", "extensions": ""}


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_are_an_authentication_error(status: int) -> None:
    """It names the address and not the token."""

    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    async with serving(refuse) as url:
        with pytest.raises(AuthenticationError, match="refused the token") as caught:
            await WebSocketTransport(url, "s3cr3t").connect()
        with pytest.raises(AuthenticationError, match="asks for a token"):
            await WebSocketTransport(url).connect()

    assert "s3cr3t" not in str(caught.value)
    assert url in str(caught.value)


async def test_another_http_answer_is_a_connect_error() -> None:
    """The status is told."""

    async def missing(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    async with serving(missing) as url:
        with pytest.raises(ConnectError, match="HTTP 404"):
            await WebSocketTransport(url).connect()


async def test_nobody_listening_is_a_connect_error_with_a_safe_address() -> None:
    """The error can be shown."""
    port = free_port()

    with pytest.raises(ConnectError, match="connection refused") as caught:
        await WebSocketTransport(f"ws://127.0.0.1:{port}", "s3cr3t").connect()

    assert f"ws://127.0.0.1:{port}/event-log" == caught.value.url
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.retryable


async def test_a_server_that_never_answers_is_a_connect_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It accepts the socket and says nothing."""
    monkeypatch.setattr(limits, "CONNECT_TIMEOUT_SECONDS", 0.05)
    done = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        done.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(ConnectError, match="no answer in time"):
            await WebSocketTransport(f"ws://127.0.0.1:{port}").connect()
        await done.wait()


@pytest.mark.parametrize(("code", "reason"), [(1000, "done"), (1008, "too slow"), (1012, "restarting"), (4000, "own")])
async def test_any_close_is_a_lost_connection_with_code_and_reason(code: int, reason: str) -> None:
    """A normal close too: nobody here asked for it."""

    async def close(request: web.Request) -> web.StreamResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        await answer.close(code=code, message=reason.encode())
        return answer

    async with serving(close) as url:
        connection = await WebSocketTransport(url).connect()
        with pytest.raises(ConnectionLostError) as caught:
            await connection.receive()
        with pytest.raises(ConnectionLostError):
            await connection.receive()
        with pytest.raises(ConnectionLostError):
            await connection.send(b"late")
        await connection.close()

    assert (code, reason) == (caught.value.close_code, caught.value.reason)


async def test_a_cut_socket_is_a_lost_connection() -> None:
    """As when the server is killed."""

    async def cut(request: web.Request) -> web.StreamResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        return answer

    async with serving(cut) as url:
        connection = await WebSocketTransport(url).connect()
        with pytest.raises(ConnectionLostError):
            await connection.receive()
        await connection.close()


async def test_a_text_frame_is_refused() -> None:
    """The protocol has binary frames only."""
    closed = asyncio.get_running_loop().create_future()

    async def text(request: web.Request) -> web.StreamResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        await answer.send_str("hello")
        message = await answer.receive()
        closed.set_result((message.type, message.data))
        return answer

    async with serving(text) as url:
        connection = await WebSocketTransport(url).connect()
        with pytest.raises(ConnectionLostError, match="text frame"):
            await connection.receive()

    assert await closed == (WSMsgType.CLOSE, WSCloseCode.UNSUPPORTED_DATA)


async def test_a_frame_over_the_bound_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before memory is spent on it."""
    monkeypatch.setattr(limits, "FRAME_BYTES_MAX", 1000)

    async def flood(request: web.Request) -> web.StreamResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        await answer.send_bytes(bytes(1001))
        await answer.receive()
        return answer

    async with serving(flood) as url:
        connection = await WebSocketTransport(url).connect()
        with pytest.raises(ConnectionLostError) as caught:
            await connection.receive()
        await connection.close()

    assert caught.value.close_code == WSCloseCode.MESSAGE_TOO_BIG


async def test_send_waits_for_a_peer_that_does_not_read_and_close_does_not() -> None:
    """Memory stays bounded, and closing drops what cannot be flushed."""
    done = asyncio.Event()

    async def deaf(request: web.Request) -> web.StreamResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        assert request.transport is not None
        request.transport.pause_reading()
        await done.wait()
        return answer

    async with serving(deaf) as url:
        connection = await WebSocketTransport(url).connect()

        async def flood() -> None:
            while True:
                await connection.send(bytes(limits.MIB))

        flooding = asyncio.create_task(flood())
        finished, _ = await asyncio.wait({flooding}, timeout=0.3)
        assert not finished
        flooding.cancel()
        await asyncio.wait({flooding})
        await asyncio.wait_for(connection.close(), 20)
        done.set()


def test_the_representation_hides_the_token_and_equal_values_are_equal() -> None:
    """Transports are values."""
    one = WebSocketTransport("ws://h", "s3cr3t", "a")

    assert repr(one) == "WebSocketTransport('ws://h/event-log/a', token=***)"
    assert WebSocketTransport("http://h/event-log/a", "s3cr3t") == one
    assert hash(WebSocketTransport("http://h/event-log/a", "s3cr3t")) == hash(one)
    assert WebSocketTransport("ws://h", "other", "a") != one
    assert one.is_online
    assert repr(WebSocketTransport("ws://h", "", "")) == "WebSocketTransport('ws://h/event-log')"
    with pytest.raises(SettingsError):
        WebSocketTransport("ws://h", "two words")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (socket.gaierror(-2, "Name or service not known"), "that host name is not known"),
        (OSError(errno.EHOSTUNREACH, "x"), "no route to that host"),
        (TimeoutError(), "no answer in time"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (ValueError(), "ValueError"),
    ],
)
def test_socket_errors_are_described_in_words(error: Exception, expected: str) -> None:
    """One line for an operator."""
    assert expected == describe_failure(error)
