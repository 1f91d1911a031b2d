"""
Our server for :mod:`bench_sync`, which says when it ends how much it held at most of one connection.

Takes the arguments of ``agentlayers serve``. The last line on standard output is a JSON object of bytes: queued to be
sent, and received but not committed.
"""

from __future__ import annotations

import atexit
import json
import sys

from agentlayers.cli.main import main
from agentlayers.protocol.events import WriteReceived
from agentlayers.server.connection import Connection
from agentlayers.server.outbox import Outbox


def watch() -> None:
    """Look at both after each time they grow."""
    peaks = {"to be sent": 0, "to be committed": 0}
    put, write = Outbox.put, Connection._write

    def watched_put(self: Outbox, data: bytes) -> None:
        put(self, data)
        peaks["to be sent"] = max(peaks["to be sent"], self.size)

    def watched_write(self: Connection, event: WriteReceived) -> None:
        write(self, event)
        peaks["to be committed"] = max(peaks["to be committed"], self._writes.bytes)

    Outbox.put, Connection._write = watched_put, watched_write  # type: ignore[method-assign]
    atexit.register(lambda: print(json.dumps(peaks), flush=True))


if __name__ == "__main__":
    watch()
    sys.argv = ["agentlayers", "serve", *sys.argv[1:]]
    main()
