"""
What a stock peer over TCP can stand: one small message in each of its reads.

It takes whatever one read returns for one message and ends when that is none. So to a TCP peer that has used nothing
of ours, Changes go out an entry at a time, and a message only once the one before has left the machine and the peer
has had a moment to read it. It is best effort: nobody can see when another process reads its socket.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Final

from agentlayers.protocol.decoder import decode_message
from agentlayers.protocol.encoder import encode_message
from agentlayers.protocol.messages import Changes

__all__ = ["MessageSpacer", "small_messages"]

GAP_SECONDS: Final = 0.003
"""After a message has left: time for the peer to be given the processor and read it."""

GAP_SECONDS_PER_KIB: Final = 0.0005
"""As long more for what takes the peer longer to handle."""

_POLL_SECONDS: Final = 0.001
_LEAVE_SECONDS_MAX: Final = 0.1
"""A peer that acknowledges late (by up to 40 ms, to save packets) has read long before."""


def small_messages(messages: Sequence[bytes]) -> list[bytes]:
    """Cut Changes into one for each entry, in the stock form; everything else stays as it is."""
    small: list[bytes] = []
    for data in messages:
        message = decode_message(data)
        if type(message) is not Changes or len(message.entries) < 2:
            small.append(data)
            continue
        small += [encode_message(Changes(message.public_key, (entry,))) for entry in message.entries]
    return small


class MessageSpacer:
    """
    Waits until a message that was written may be taken for read.

    Args:
        transport: Of a TCP socket.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._socket = transport.get_extra_info("socket")

    async def until_read(self, size: int) -> None:
        """Return when the peer has probably read the message of so many bytes that was written last."""
        deadline = asyncio.get_running_loop().time() + _LEAVE_SECONDS_MAX
        while self._unsent() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
        await asyncio.sleep(GAP_SECONDS + GAP_SECONDS_PER_KIB * size / 1024)

    def _unsent(self) -> int:
        """Return the bytes that the peer's machine has not acknowledged, as far as ours can tell."""
        waiting = self._transport.get_write_buffer_size()
        if waiting or self._socket is None:
            return waiting
        try:
            import fcntl
            import termios

            answer = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4))
        except (ImportError, OSError, ValueError):  # another system, or a socket that is gone
            return 0
        return int(struct.unpack("i", answer)[0])
