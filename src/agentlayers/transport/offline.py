"""No server at all: everything stays local until a transport is configured."""

from __future__ import annotations

from typing import Final, NoReturn

from agentlayers.errors import ConnectError
from agentlayers.transport.transport import Transport

__all__ = ["OfflineTransport"]


class OfflineTransport(Transport):
    """Nowhere to connect to; the sync service stays idle and local writes are kept as pending."""

    url: Final = "offline"

    @property
    def is_online(self) -> bool:
        """Always :obj:`False`."""
        return False

    async def connect(self) -> NoReturn:
        """
        Refuse.

        Raises:
            ConnectError: Always.
        """
        raise ConnectError(url=self.url, reason="no transport is configured")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OfflineTransport)

    def __hash__(self) -> int:
        return hash(OfflineTransport)

    def __repr__(self) -> str:
        return "OfflineTransport()"
