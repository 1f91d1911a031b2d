"""Exchange everything with the servers, however long that takes, and show how far it is."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agentlayers.cli.progress import spinner
from agentlayers.errors import TransportError

if TYPE_CHECKING:
    from agentlayers.sync.service import SyncService
    from agentlayers.sync.status import SyncReport, SyncStatus

__all__ = ["exchange"]

PATIENCE_SECONDS: Final = 30.0
"""Without a single entry sent or received, after which an exchange is given up."""


async def exchange(sync: SyncService, *, patience_seconds: float = PATIENCE_SECONDS) -> SyncReport:
    """
    Exchange everything there is with every server; give up on one only when nothing moves any more.

    Args:
        sync: The service, open.
        patience_seconds: How long nothing may move.

    Returns:
        What was done, with the error of each server that failed.
    """
    seconds = 0.0
    async with _shown(sync):
        while True:
            before = _moved(sync.status)
            report = await sync.sync_now(patience_seconds, return_errors=True)
            seconds += report.seconds
            # Only what took too long is an error of exactly this kind.
            is_slow = any(type(remote.error) is TransportError for remote in report.remotes)
            if not is_slow or _moved(sync.status) == before:
                return replace(report, seconds=seconds)


def _moved(status: SyncStatus) -> int:
    stores = [store for remote in status.remotes.values() for store in remote.stores.values()]
    return sum(store.sent + store.received + store.quarantined for store in stores)


@contextlib.asynccontextmanager
async def _shown(sync: SyncService) -> AsyncIterator[None]:
    """Say on a terminal how far it is."""
    if not sys.stderr.isatty():
        yield
        return
    with spinner("syncing") as tell:

        async def show() -> None:
            async for status in sync.status_stream():
                tell(progress_of(status))

        showing = asyncio.create_task(show())
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.wait([showing])


def progress_of(status: SyncStatus) -> str:
    """Say in a few words what was exchanged so far and what is known to be left."""
    stores = [store for remote in status.remotes.values() for store in remote.stores.values() if store.enabled]
    sent, received = (f"{sum(counts):,}" for counts in zip(*((one.sent, one.received) for one in stores), strict=True))
    left = [f"{status.pending:,} to send"] if status.pending else []
    left += [f"{status.behind:,} to receive"] if status.behind else []
    return f"({status.state}): {sent} sent, {received} received" + "".join(f", {one}" for one in left)
