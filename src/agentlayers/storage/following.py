"""Follow a store's entries as values; entries that cannot be read are reported and passed over."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, TypeVar, cast

from agentlayers.errors import ProtocolError
from agentlayers.journal.entry import StoredEntry
from agentlayers.logs import get_logger

__all__ = ["decoded_changes"]

T = TypeVar("T")

logger = get_logger(__name__)


async def decoded_changes(
    changes: AsyncIterator[StoredEntry], decode: Callable[[StoredEntry], T | None]
) -> AsyncGenerator[T]:
    """Yield what ``decode`` makes of each change; :obj:`None` is passed over."""
    try:
        async for stored in changes:
            try:
                value = decode(stored)
            except ProtocolError as error:
                logger.warning(
                    "entry_unreadable",
                    store=stored.store,
                    entry_id=stored.entry.id.hex(),
                    reason=str(error),
                )
                continue
            if value is not None:
                yield value
    finally:
        # An iterator that is not closed would keep listening to the journal.
        close = getattr(cast("Any", changes), "aclose", None)
        if close is not None:
            await close()
