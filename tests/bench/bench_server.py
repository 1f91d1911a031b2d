"""
What the server alone can do: durable appends, and fan-out to raw subscribers.

Run ``python tests/bench/bench_server.py [--subscribers 100] [--writes 500] [--window 8]``. The subscribers read
bytes and count entries, nothing more; they and the writer live in this process, the server in another one.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import selectors
import socket
import struct
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import structlog

from agentlayers.protocol.codec import encode_message
from agentlayers.protocol.messages import EncryptedEntry, RequestChanges, WriteEntries
from agentlayers.server import SQLiteServerStorage, SyncServer

CIPHERTEXT_BYTES = 380
UPGRADE = (
    b"GET /event-log HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def random_entries(count: int, size: int = CIPHERTEXT_BYTES) -> list[EncryptedEntry]:
    return [EncryptedEntry(os.urandom(16), os.urandom(12), os.urandom(size)) for _ in range(count)]


async def measure_appends(directory: Path, *, batches: int = 100, size: int = 512) -> float:
    """Return durable entries/s, one batch after the other."""
    data = [random_entries(size, 400) for _ in range(batches)]
    async with SQLiteServerStorage(directory) as storage:
        started = time.perf_counter()
        for batch in data:
            await storage.append("default", "key", batch)
        return batches * size / (time.perf_counter() - started)


def serve(directory: str, ready: Connection) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    sys.setswitchinterval(0.0005)

    async def run() -> None:
        async with SQLiteServerStorage(directory) as storage, SyncServer(storage, port=0) as server:
            ready.send(server.port)
            await asyncio.Event().wait()

    asyncio.run(run())


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(UPGRADE)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(4096)
    return connection


def client_frame(message: bytes) -> bytes:
    """Mask with zeros: a client's frame, at no cost to the measurement."""
    length = len(message)
    if length < 126:
        header = bytes((0x82, 0x80 | length))
    elif length < 65_536:
        header = b"\x82\xfe" + struct.pack("!H", length)
    else:
        header = b"\x82\xff" + struct.pack("!Q", length)
    return header + bytes(4) + message


def measure_fan_out(port: int, *, subscribers: int, writes: int, window: int) -> float:
    """Return deliveries/s: entries times subscribers, from the first write to the last delivery."""
    selector = selectors.DefaultSelector()
    follow = client_frame(encode_message(RequestChanges("key", 0)))
    for _ in range(subscribers):
        reader = connect(port)
        reader.sendall(follow)
        reader.setblocking(False)
        selector.register(reader, selectors.EVENT_READ, b"encryptedEntry")
    writer = connect(port)
    writer.setblocking(False)
    selector.register(writer, selectors.EVENT_READ, b"sequenceNumbers")
    time.sleep(0.5)
    for key, _ in selector.select(0):
        key.fileobj.recv(1 << 20)  # type: ignore[union-attr]
    frames = [
        client_frame(encode_message(WriteEntries("key", number, [entry], entry.iv)))
        for number, entry in enumerate(random_entries(writes))
    ]

    started = time.perf_counter()
    sent = acknowledged = delivered = 0
    buffer = bytearray(256 * 1024)
    buffer_from = [memoryview(buffer)[start:] for start in range(32)]
    tails: dict[int, bytes] = {}
    while delivered < subscribers * writes:
        while sent < writes and sent - acknowledged < window:
            writer.sendall(frames[sent])
            sent += 1
        for key, _ in selector.select(5):
            # A word may be cut by the read, so its beginning is kept; too short to be counted twice. The reads go
            # into one buffer: a new one for each costs more than all the server does for a delivery.
            tail = tails.get(key.fd, b"")
            start = len(tail)
            buffer[:start] = tail
            end = start + key.fileobj.recv_into(buffer_from[start])  # type: ignore[union-attr]
            tails[key.fd] = bytes(buffer[max(end + 1 - len(key.data), 0) : end])
            found = buffer.count(key.data, 0, end)
            if key.fileobj is writer:
                acknowledged += found
            else:
                delivered += found
    seconds = time.perf_counter() - started
    for key in list(selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]
    selector.close()
    return delivered / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscribers", type=int, default=100)
    parser.add_argument("--writes", type=int, default=500)
    parser.add_argument("--window", type=int, default=8, help="writes on their way without an Ack")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        appends = asyncio.run(measure_appends(Path(directory)))
        print(f"durable appends in batches of 512 x 400 bytes: {appends:,.0f} entries/s")
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(directory, theirs), daemon=True)
        server.start()
        try:
            rate = measure_fan_out(ours.recv(), **vars(options))
        finally:
            server.terminate()
            server.join()
        print(
            f"fan-out to {options.subscribers} subscribers, {options.window} writes in flight: {rate:,.0f} deliveries/s"
        )


if __name__ == "__main__":
    main()
