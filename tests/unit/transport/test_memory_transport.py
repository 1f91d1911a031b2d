"""The in-memory transport behaves like a socket: ordered, bounded, and closed from either end."""

import asyncio

import pytest

from agentlayers.errors import ConnectError, ConnectionLostError
from agentlayers.transport.memory import MemoryConnection, MemoryTransport


async def echo(connection: MemoryConnection) -> None:
    """Send back what comes."""
    while True:
        await connection.send(await connection.receive())


async def test_messages_travel_both_ways_and_close_ends_the_server() -> None:
    """No task is left."""
    connection = await MemoryTransport(echo).connect()
    await connection.send(b"one")
    await connection.send(b"two")

    assert [await connection.receive(), await connection.receive()] == [b"one", b"two"]

    await connection.close()
    await connection.close()

    assert {asyncio.current_task()} == asyncio.all_tasks()
    assert not connection.is_open


async def test_no_server_is_a_connect_error() -> None:
    """Like a port nobody listens on."""
    with pytest.raises(ConnectError, match="refused"):
        await MemoryTransport(None).connect()


async def test_what_was_sent_before_a_close_still_arrives() -> None:
    """Then the code and the reason."""

    async def say_goodbye(connection: MemoryConnection) -> None:
        await connection.send(b"last")
        await connection.close(1012, "restarting")

    connection = await MemoryTransport(say_goodbye).connect()

    assert await connection.receive() == b"last"
    with pytest.raises(ConnectionLostError, match="restarting") as caught:
        await connection.receive()
    assert caught.value.close_code == 1012
    with pytest.raises(ConnectionLostError):
        await connection.send(b"late")
    await connection.close()


async def test_a_server_that_fails_breaks_the_connection() -> None:
    """As when it is killed."""

    async def fail(connection: MemoryConnection) -> None:
        await connection.receive()
        raise ConnectionLostError(reason="gone")

    connection = await MemoryTransport(fail).connect()
    await connection.send(b"x")

    with pytest.raises(ConnectionLostError, match="the server ended"):
        await connection.receive()
    await connection.close()


async def test_send_waits_while_the_peer_does_not_receive() -> None:
    """And gives up when the connection is closed."""
    reading = asyncio.Event()

    async def slow(connection: MemoryConnection) -> None:
        await reading.wait()
        await connection.receive()
        await asyncio.Event().wait()

    connection = await MemoryTransport(slow).connect()

    async def flood() -> int:
        sent = 0
        try:
            while True:
                await connection.send(b"x")
                sent += 1
        except ConnectionLostError:
            return sent

    flooding = asyncio.create_task(flood())
    await asyncio.sleep(0.01)
    reading.set()
    await asyncio.sleep(0.01)
    await connection.close()

    assert await flooding == 17
