"""A server that wants more of a replica than its entries: to be sent elsewhere, its token, its terminal, its time."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from agentlayers.errors import AgentLayersError, AuthenticationError, ConnectError, ConnectionLostError
from agentlayers.transport.loop_share import LoopShare
from agentlayers.transport.websocket import WebSocketTransport

TOKEN = "canary-6d1f3b"
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Listen, keep the head of each request, and let ``answer`` say the rest."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            await answer(heads[-1], writer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads


def replying(reply: bytes) -> Answer:
    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)

    return answer


def upgraded(then: bytes) -> Answer:
    """Accept the upgrade, and go on with raw frames."""

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n") if b": " in line)
        accept = base64.b64encode(
            hashlib.sha1(lines[b"Sec-WebSocket-Key"] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        )
        writer.write(UPGRADED + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + then)

    return answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to_itself", [True, False], ids=["itself", "elsewhere"])
async def test_a_redirect_is_not_followed(status: int, to_itself: bool) -> None:
    """A server would otherwise choose which hosts of the replica's network it sends requests to."""
    async with answering(replying(b"HTTP/1.1 200 OK\r\n\r\n")) as (elsewhere, reached):
        location = "/other" if to_itself else elsewhere.replace("ws:", "http:") + "/admin"
        reply = f"HTTP/1.1 {status} See\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
        async with answering(replying(reply)) as (url, asked):
            with pytest.raises(ConnectError, match=f"HTTP {status}, a redirect: not followed; give the final address"):
                await WebSocketTransport(url, TOKEN).connect()

            assert (len(asked), reached) == (1, [])


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", AuthenticationError),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", ConnectError),
        (b"HTTP/1.1 302 No\r\nLocation: /\r\n\r\n", ConnectError),
        (
            UPGRADED + b"Sec-WebSocket-Accept: x\r\n\r\n",
            ConnectError,
        ),
        (b"HTTP/1.1 101 " + b"x" * 10_000, ConnectError),
        (b"no HTTP", ConnectError),
        (b"", ConnectError),
    ],
    ids=["refused", "failing", "redirecting", "accepting wrongly", "endless", "garbled", "silent"],
)
async def test_a_failed_connection_does_not_show_the_token(reply: bytes, expected: type[AgentLayersError]) -> None:
    """Nor do its causes, whoever renders them, with the variables of their frames too."""
    async with answering(replying(reply)) as (url, asked):
        with pytest.raises(expected) as caught:
            await WebSocketTransport(url, TOKEN).connect()

    assert TOKEN.encode() in asked[0]
    inside = caught.tb.tb_next  # the frame above is this test's
    rendered = traceback.TracebackException(caught.type, caught.value, inside, capture_locals=True).format()
    shown = "".join(rendered)
    assert "agentlayers/transport" in shown
    assert TOKEN not in shown
    chain: list[BaseException | None] = [caught.value]
    while chain[-1] is not None:
        assert TOKEN not in repr(chain[-1])
        chain.append(chain[-1].__cause__ or chain[-1].__context__)


async def test_what_a_server_says_at_its_close_is_told_in_one_line_of_text() -> None:
    """An application that prints its errors must not be made to print escapes, or a line of the server's own."""
    reason = "\x1b]0;owned\x07\nerror: forged \u202e\u00fc".encode()
    frame = b"\x88" + bytes([len(reason) + 2]) + (1008).to_bytes(2) + reason
    async with answering(upgraded(frame)) as (url, _):
        connection = await WebSocketTransport(url).connect()
        with pytest.raises(ConnectionLostError) as caught:
            await connection.receive()
        await connection.close()

    expected = r"connection lost (close code 1008): \x1b]0;owned\x07\nerror: forged \u202e" + "\u00fc"
    assert str(caught.value) == expected


async def test_a_long_answer_that_cannot_be_read_is_not_repeated_whole() -> None:
    """A status, and the log with each attempt, would hold kilobytes of it."""
    async with answering(replying(b"HTTP/1.1 200 OK\r\n" + b"<" * 8_000 + b"\r\n\r\n")) as (url, _):
        with pytest.raises(ConnectError) as caught:
            await WebSocketTransport(url).connect()

    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "frames",
    [
        b"\x82\x7f" + (2**63).to_bytes(8),
        b"\xc2\x05\x4a\x4c\x04\x00\x00",
        b"\x02\x00" + (b"\x00\x7e\xff\xff" + bytes(0xFFFF)) * 65,
        b"\x89\x7e\x01\x00" + bytes(256),
    ],
    ids=["huge length", "compressed", "endless fragments", "long ping"],
)
async def test_frames_that_no_server_may_send_end_the_connection(frames: bytes) -> None:
    """Before memory is spent on what they announce."""
    async with answering(upgraded(frames)) as (url, _):
        connection = await WebSocketTransport(url).connect()
        with pytest.raises(ConnectionLostError):
            await asyncio.wait_for(connection.receive(), 10)
        await connection.close()


async def test_who_works_for_long_lets_others_run_in_between() -> None:
    """Waiting for what is there already would not."""
    moment = 0.0
    share = LoopShare(lambda: moment)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(other())
        for work, expected in [(0.0015, 0), (0.001, 1), (0.0015, 1), (0.004, 2)]:
            share.begin()
            moment += work
            await share.end()
            assert turns == expected
        task.cancel()
