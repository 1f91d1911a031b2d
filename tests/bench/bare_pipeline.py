"""
The limit for :mod:`bench_sync`: aiohttp, sqlite3, AES-GCM and MessagePack, and nothing else.

Entries go from A's SQLite file sealed to a server's SQLite file and from there to B's, each commit synced to the
disk. There are no duplicates, retries, subscriptions, cursors, projections, limits or errors.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
from aiohttp import web
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY = bytes(32)
BATCH, WINDOW = 512, 8
ROW = "INSERT INTO entry (id, data) VALUES (?, ?)"


def open_file(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS entry (position INTEGER PRIMARY KEY, id BLOB UNIQUE, data BLOB)")
    return connection


def insert(connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> None:
    connection.execute("BEGIN")
    connection.executemany(ROW, rows)
    connection.execute("COMMIT")


def fill(directory: Path, payload: dict[str, Any], count: int) -> None:
    """Write what A has before it connects."""
    directory.mkdir(parents=True)
    data = msgpack.packb(payload)
    insert(open_file(directory / "bare.sqlite"), [(os.urandom(16), data) for _ in range(count)])


class BareServer:
    """Stores each message in a transaction, acknowledges it, and hands it to whoever else is connected."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._file = open_file(directory / "bare.sqlite")
        self._sockets: list[web.WebSocketResponse] = []

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0, compress=False)
        await socket.prepare(request)
        if "backlog" in request.query:
            await self._send_backlog(socket)
        self._sockets.append(socket)
        async for message in socket:
            rows = msgpack.unpackb(message.data)
            await asyncio.to_thread(insert, self._file, rows)
            for other in self._sockets:
                await other.send_bytes(b"" if other is socket else message.data)
        return socket

    async def _send_backlog(self, socket: web.WebSocketResponse) -> None:
        cursor = self._file.execute("SELECT id, data FROM entry ORDER BY position")
        while rows := cursor.fetchmany(BATCH):
            await socket.send_bytes(msgpack.packb(rows))


async def run_server(directory: Path) -> None:
    application = web.Application()
    application.router.add_get("/", BareServer(directory).serve)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(site.port, flush=True)
    await asyncio.Event().wait()


async def run_sender(directory: Path, port: int) -> None:
    """Send everything, with a window; prints when it began."""
    connection, seal = open_file(directory / "bare.sqlite"), AESGCM(KEY)
    async with aiohttp.ClientSession() as session:
        print(time.monotonic(), flush=True)
        async with session.ws_connect(f"http://127.0.0.1:{port}/", max_msg_size=0) as socket:
            under_way = 0
            cursor = connection.execute("SELECT id, data FROM entry ORDER BY position")
            while rows := cursor.fetchmany(BATCH):
                sealed = []
                for entry_id, data in rows:
                    iv = os.urandom(12)
                    sealed.append((entry_id, iv + seal.encrypt(iv, msgpack.packb((entry_id, data)), None)))
                if under_way == WINDOW:
                    await socket.receive_bytes()
                    under_way -= 1
                await socket.send_bytes(msgpack.packb(sealed))
                under_way += 1
            for _ in range(under_way):
                await socket.receive_bytes()


async def run_receiver(directory: Path, port: int, count: int, backlog: bool) -> None:
    """Take everything over; prints when it began and when the last entry was committed."""
    directory.mkdir(parents=True)  # noqa: ASYNC240 - before anything runs
    connection, opened = open_file(directory / "bare.sqlite"), AESGCM(KEY)
    async with aiohttp.ClientSession() as session:
        print(time.monotonic(), flush=True)
        address = f"http://127.0.0.1:{port}/" + ("?backlog" if backlog else "")
        async with session.ws_connect(address, max_msg_size=0) as socket:
            print("connected", flush=True)
            while count:
                rows = msgpack.unpackb(await socket.receive_bytes())
                plain = [msgpack.unpackb(opened.decrypt(data[:12], data[12:], None)) for _, data in rows]
                await asyncio.to_thread(insert, connection, plain)
                count -= len(rows)
    print(time.monotonic(), flush=True)


async def run(role: str, directory: str, *numbers: str) -> None:
    """Be one of its processes: ``server DIR``, ``sender DIR PORT`` or ``receiver DIR PORT ENTRIES BACKLOG``."""
    port, count, backlog = (*map(int, numbers), 0, 0, 0)[:3]
    if role == "server":
        await run_server(Path(directory))
    elif role == "sender":
        await run_sender(Path(directory), port)
    else:
        await run_receiver(Path(directory), port, count, bool(backlog))


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
