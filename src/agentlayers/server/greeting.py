"""What a server of ours says of itself in its Hello."""

from __future__ import annotations

from typing import Final

from agentlayers.limits import WRITE_WINDOW_BYTES, WRITE_WINDOW_MESSAGES
from agentlayers.protocol.messages import (
    CAPABILITY_ACK_THROUGH,
    CAPABILITY_CREDIT,
    CAPABILITY_DIGESTS,
    CAPABILITY_ENTRY_NONCES,
    CAPABILITY_FETCH,
    EXTENSION_VERSION,
    Extensions,
    Hello,
    WriteWindow,
)
from agentlayers.server.storage import ServerStorage

__all__ = ["CAPABILITIES", "greeting_of"]

CAPABILITIES: Final = frozenset(
    {CAPABILITY_ENTRY_NONCES, CAPABILITY_ACK_THROUGH, CAPABILITY_DIGESTS, CAPABILITY_CREDIT, CAPABILITY_FETCH}
)
"""All that this release's server understands."""

_WRITE_WINDOW: Final = WriteWindow(WRITE_WINDOW_MESSAGES, WRITE_WINDOW_BYTES)


async def greeting_of(storage: ServerStorage, tenant: str) -> Hello:
    """
    Return the Hello of a tenant.

    Raises:
        StorageError: The storage cannot be read, or the tenant not be created.
    """
    info = await storage.tenant(tenant)
    extensions = Extensions(EXTENSION_VERSION, CAPABILITIES, info.incarnation, tenant, _WRITE_WINDOW)
    return Hello(info.remote_id, extensions)
