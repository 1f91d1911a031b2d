"""
Fan-out and floods as raw as they get: sockets that send ready-made frames and count words in what comes back.

Subscribers and writer share one process and one buffer, so that what is measured is the server.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgpack

from agentlayers.protocol.codec import encode_message
from agentlayers.protocol.messages import EncryptedEntry, RequestChanges, WriteEntries

CIPHERTEXT_BYTES = 380
SILENCE_SECONDS_MAX = 10.0
KEY = "key"


class UnfinishedError(Exception):
    """A measurement did not come to its end; the text says why."""


@dataclass(frozen=True)
class Wire:
    """
    How a server is spoken to.

    Attributes:
        path: Of the WebSocket.
        follow: What a subscriber sends first; empty if nothing.
        write: Makes the message with one new entry, from its number.
        delivered: A word that is in what a subscriber gets, once for each entry.
        acknowledged: A word that is in what the writer gets, once for each message.
    """

    path: str
    follow: bytes
    write: Callable[[int], bytes]
    delivered: bytes
    acknowledged: bytes


def random_entries(count: int, size: int = CIPHERTEXT_BYTES) -> list[EncryptedEntry]:
    """Make sealed entries; their ids are UUIDs, as stock servers want them."""
    return [EncryptedEntry(uuid.uuid4().bytes, os.urandom(12), os.urandom(size)) for _ in range(count)]


def _write(number: int) -> bytes:
    (entry,) = random_entries(1)
    return encode_message(WriteEntries(KEY, number, [entry], entry.iv))


def _write_bare(number: int) -> bytes:
    row: bytes = msgpack.packb([(os.urandom(16), b"bare-entry" + os.urandom(CIPHERTEXT_BYTES))])
    return row


EVENT_LOG = Wire("/event-log", encode_message(RequestChanges(KEY, 0)), _write, b"encryptedEntry", b"sequenceNumbers")
BARE = Wire("/", b"", _write_bare, b"bare-entry", b"\x82\x00")


def connect(port: int, wire: Wire) -> socket.socket:
    """Open a WebSocket."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(
        f"GET {wire.path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
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


class Counter:
    """Counts words in what many sockets receive."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self._buffer = bytearray(256 * 1024)
        self._from = [memoryview(self._buffer)[start:] for start in range(32)]
        self._tails: dict[int, bytes] = {}

    def add(self, connection: socket.socket, word: bytes) -> None:
        """Count a word in what this socket receives."""
        connection.setblocking(False)
        self.selector.register(connection, selectors.EVENT_READ, word)

    def read(self, connection: socket.socket, word: bytes) -> int:
        """Return how many more there are; one that was cut by an earlier read counts with the later one."""
        # The reads go into one buffer: a new one for each costs more than all a server does for a delivery.
        tail = self._tails.get(connection.fileno(), b"")
        self._buffer[: len(tail)] = tail
        received = connection.recv_into(self._from[len(tail)])
        if not received:
            raise UnfinishedError("the server closed a connection of the benchmark")
        end = len(tail) + received
        # What is kept is shorter than a word, so that nothing counts twice.
        self._tails[connection.fileno()] = bytes(self._buffer[max(end + 1 - len(word), 0) : end])
        return self._buffer.count(word, 0, end)

    def ready(self) -> list[tuple[socket.socket, bytes]]:
        """Wait for sockets that can be read."""
        found = self.selector.select(SILENCE_SECONDS_MAX)
        if not found:
            raise UnfinishedError(f"nothing came for {SILENCE_SECONDS_MAX:g} s")
        return [(key.fileobj, key.data) for key, _ in found]  # type: ignore[misc]

    def close(self) -> None:
        """Close all sockets."""
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self.selector.close()


def measure_fan_out(port: int, *, subscribers: int, writes: int, window: int, wire: Wire = EVENT_LOG) -> float:
    """Return deliveries/s: entries times subscribers, from the first write to the last delivery."""
    counter = Counter()
    for _ in range(subscribers):
        reader = connect(port, wire)
        if wire.follow:
            reader.sendall(client_frame(wire.follow))
        counter.add(reader, wire.delivered)
    writer = connect(port, wire)
    counter.add(writer, wire.acknowledged)
    time.sleep(0.5)
    for key, _ in counter.selector.select(0):
        key.fileobj.recv(1 << 20)  # type: ignore[union-attr]
    frames = [client_frame(wire.write(number)) for number in range(writes)]

    started = time.perf_counter()
    sent = acknowledged = delivered = 0
    while delivered < subscribers * writes:
        while sent < writes and sent - acknowledged < window:
            writer.sendall(frames[sent])
            sent += 1
        for connection, word in counter.ready():
            found = counter.read(connection, word)
            if connection is writer:
                acknowledged += found
            else:
                delivered += found
    seconds = time.perf_counter() - started
    counter.close()
    return delivered / seconds


def flood(port: int, writes: int, *, never_reading: int = 0, wire: Wire = EVENT_LOG) -> float:
    """
    Send as fast as the socket takes it, without waiting for one Ack, and read these as they come.

    Args:
        port: Of the server.
        writes: How many.
        never_reading: Subscribers that read nothing meanwhile.
        wire: How it is spoken to.

    Returns:
        Entries/s, until the last Ack.
    """
    lazy: Sequence[socket.socket] = [connect(port, wire) for _ in range(never_reading)]
    for each in lazy:
        each.sendall(client_frame(wire.follow))
    counter = Counter()
    writer = connect(port, wire)
    counter.add(writer, wire.acknowledged)
    waiting = memoryview(b"".join(client_frame(wire.write(number)) for number in range(writes)))
    started = time.perf_counter()
    acknowledged = 0
    counter.selector.modify(writer, selectors.EVENT_READ | selectors.EVENT_WRITE, wire.acknowledged)
    while acknowledged < writes:
        found = counter.selector.select(SILENCE_SECONDS_MAX)
        if not found:
            raise UnfinishedError(f"nothing came for {SILENCE_SECONDS_MAX:g} s")
        for _, events in found:
            if events & selectors.EVENT_READ:
                acknowledged += counter.read(writer, wire.acknowledged)
            if events & selectors.EVENT_WRITE:
                waiting = waiting[writer.send(waiting[: 1 << 20]) :]
                if not waiting:
                    counter.selector.modify(writer, selectors.EVENT_READ, wire.acknowledged)
    seconds = time.perf_counter() - started
    counter.close()
    for each in lazy:
        each.close()
    return writes / seconds
