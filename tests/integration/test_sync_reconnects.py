"""A connection that breaks again and again leaves nothing behind: no task, no file, no memory."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentlayers.limits import KIB
from agentlayers.schedule import fixed
from agentlayers.server import MemoryServerStorage, SyncServer
from agentlayers.server.close import CloseReason
from agentlayers.transport.transport import Transport
from helpers.sync_world import Replica, replica

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts open files in /proc")


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def held() -> tuple[int, int, int]:
    """Return tasks, open files and traced bytes."""
    gc.collect()
    return len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir())), tracemalloc.get_traced_memory()[0]


async def broken(server: SyncServer, one: Replica, times: int) -> None:
    for _ in range(times):
        since = one.sync.status.since
        for connection in list(server._connections):
            connection.end(CloseReason.GOING_AWAY)
        await one.until(lambda sync, since=since: sync.status.since != since)  # type: ignore[misc]
        await one.sync.sync_now()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("scheme", ["websocket", "tcp"])
@pytest.mark.parametrize("times", [40, pytest.param(1500, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
async def test_many_reconnects_leave_nothing_behind(scheme: str, times: int) -> None:
    async with (
        MemoryServerStorage() as storage,
        SyncServer(storage, port=0, tcp_port=0) as server,
    ):
        url = server.websocket_url if scheme == "websocket" else server.tcp_url
        assert url is not None
        names = ("chat_history", "audit_log")
        async with replica(Transport.from_url(url), names=names, schedule=fixed(0.001)) as one:
            await one.sync.sync_now()
            await broken(server, one, 20)
            tasks, files, traced = held()
            await broken(server, one, times)
            tasks_after, files_after, traced_after = held()

            assert tasks_after <= tasks + 1
            assert files_after <= files + 2
            # The loop forgets cancelled timers late, some hundred at a time.
            assert traced_after - traced < 128 * KIB
