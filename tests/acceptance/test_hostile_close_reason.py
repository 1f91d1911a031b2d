"""A server's words reach the terminal as text, never as commands to it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from aiohttp import web

from agentlayers.eventlog.identity import Identity


async def test_control_characters_in_a_close_reason_are_shown_as_codes(tmp_path: Path) -> None:
    Identity.generate().save(tmp_path / "identity")

    async def close(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close(code=1008, message=b"\x1b[2Jgone\x07")
        return socket

    application = web.Application()
    application.router.add_get("/event-log", close)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
    command = [sys.executable, "-m", "agentlayers", "sync", str(tmp_path), "--to", url]
    try:
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=50, check=False)
    finally:
        await runner.cleanup()

    assert done.returncode == 5
    assert done.stderr.startswith(b"error: ")
    assert b"\\x1b[2Jgone\\x07" in done.stderr
    assert b"\x1b" not in done.stderr + done.stdout
