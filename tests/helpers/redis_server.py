"""A real redis-server on a Unix socket of its own, for the tests that need one."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


class RedisServer:
    """A server in a new directory; nothing of it is left behind."""

    def __init__(self, directory: Path, *options: str) -> None:
        # The path of a socket may hold about a hundred bytes, and those of pytest are longer.
        self.socket = directory / "redis.sock"
        self._command = [
            *("redis-server", "--port", "0", "--unixsocket", str(self.socket), "--dir", str(directory)),
            *("--save", "", "--logfile", str(directory / "log"), "--daemonize", "no", *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        for _ in range(200):
            if self._answers():
                return
            time.sleep(0.05)
        raise RuntimeError("redis-server did not start")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.socket))
            client.sendall(b"PING\r\n")
            return not client.recv(100).startswith(b"-LOADING")
        return False

    def kill(self) -> None:
        """End it at once, as a power failure of the server does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)

    def command(self, *words: str) -> str:
        """Send one command past the store and return the raw answer."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.socket))
            client.sendall((" ".join(words) + "\r\n").encode())
            return client.recv(10_000).decode(errors="replace")


def is_there() -> str | None:
    """Return why there is no Redis here, if there is none."""
    if shutil.which("redis-server") is None:
        return "redis-server is not installed (Debian package redis-server)"
    if importlib.util.find_spec("redis") is None:
        return "the package redis is not installed (extra agentlayers[redis])"
    return None


@contextlib.contextmanager
def running(*options: str) -> Iterator[RedisServer]:
    """Run a server for the block; skips the test where that is impossible."""
    reason = is_there()
    if reason is not None:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = RedisServer(Path(directory), *options)
        try:
            server.start()
            yield server
        finally:
            server.kill()
