"""
What a stock peer over TCP can stand: in each of its reads one message, and that whole.

It takes whatever one read returns for one message and ends when that is none. So to a TCP peer that has used nothing
of ours, Changes are made to fit into one segment, and a message goes out only once the one before has left the
machine and the peer has had time to read it; Changes that wait meanwhile are put together. It is best effort: nobody
can see when a process on another machine reads its socket. Of one on this machine that is seen, and waited for.

A Pong does not wait behind Changes: a stock client that has none when it is to ping again, after 10 s, goes offline for
good. Nor does an Ack that lists nothing to a journal in SQL, which stores nothing before its first one.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Final

from agentlayers.protocol.decoder import decode_message
from agentlayers.protocol.encoder import encode_message
from agentlayers.protocol.messages import Ack, Changes, Pong, RemoteEncryptedEntry
from agentlayers.server.intake import seconds_per_entry
from agentlayers.server.receive_queue import unread_bytes

__all__ = ["MessageSpacer"]

GAP_SECONDS: Final = 0.15
"""From one message to the next: time for the peer to be given the processor, to read, and to come back from what it was
doing."""

GAP_SECONDS_PER_ENTRY: Final = 0.0005
"""As long more for each entry that the peer takes over meanwhile; a journal in SQL takes longer the more it holds."""

ENTRIES_GAP_SECONDS_MAX: Final = 4.0
"""For all of them, however many: a Pong waits for the end of a gap, and the client for no more than 10 s."""

SEGMENT_BYTES_MAX: Final = 60 * 1024
"""Node reads no more at once, whatever fits into a segment (64 KiB on one machine)."""

_SEGMENT_BYTES: Final = 1200
"""Where the socket does not say: fits into a segment of any network."""

_POLL_SECONDS: Final = 0.001
_UNREAD_POLL_SECONDS: Final = 0.01
_ENTRY_BYTES: Final = 90
"""Of an entry in Changes, beside its ciphertext."""

_FIRST_BYTES_MAX: Final = 64
"""Of what overtakes: a Pong to a stock peer, an Ack that lists nothing."""

_SEQUENCE_BYTES_MAX: Final = 9
"""Of a number in an Ack."""

_HEAD_BYTES: Final = 64
"""Of Changes, beside its public key and entries, and of an Ack."""


class MessageSpacer:
    """
    Makes messages for a stock peer, and waits between them.

    Args:
        transport: Of a TCP socket.

    Attributes:
        has_sql_journal: The peer may keep its journal in SQL.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        self._segment_bytes = min(_segment_bytes(self._socket), SEGMENT_BYTES_MAX)
        self.has_sql_journal = False
        self._seconds = 0.0
        self._seconds_before_ack: float | None = 0.0
        self._released = asyncio.Event()

    def release(self) -> None:
        """Wait no more: the peer finds the boundaries itself."""
        self._released.set()

    @property
    def sequences_max(self) -> int:
        """How many sequences fit into one Ack."""
        return max((self._segment_bytes - _HEAD_BYTES) // _SEQUENCE_BYTES_MAX, 1)

    def goes_first(self, data: bytes) -> bool:
        """Whether a message overtakes those that wait: a Pong, or an Ack that lists nothing to a journal in SQL."""
        if len(data) > _FIRST_BYTES_MAX:
            return False
        message = decode_message(data)
        if type(message) is Ack:
            return self.has_sql_journal and not message.sequence_numbers
        return type(message) is Pong

    def next_message(self, queue: deque[bytes]) -> tuple[bytes, int]:
        """
        Take the next message off a queue of messages: Changes as many as fit together, or as much of one as fits.

        Returns:
            The message, and the bytes of those that are gone from the queue.
        """
        data = queue.popleft()
        message = decode_message(data)
        self._seconds = 0.0
        if type(message) is Ack:
            # A peer with an SQL journal begins to store only now.
            self._seconds, self._seconds_before_ack = self._seconds_before_ack or 0.0, None
            if self.has_sql_journal and (listed := message.sequence_numbers):
                self._seconds += len(listed) * self._seconds_per_entry(listed[-1])
        if type(message) is not Changes:
            return data, len(data)
        taken, entries = len(data), list(message.entries)
        while queue and self._fitting(message.public_key, entries) == len(entries):
            more = decode_message(queue[0])
            if type(more) is not Changes or more.public_key != message.public_key:
                break
            entries += more.entries
            taken += len(queue.popleft())
        count = max(self._fitting(message.public_key, entries), 1)
        if rest := entries[count:]:
            queue.appendleft(encode_message(Changes(message.public_key, rest)))
            taken -= len(queue[0])
        self._seconds = count * self._seconds_per_entry(entries[0].sequence)
        if self._seconds_before_ack is not None:
            self._seconds_before_ack += self._seconds
        return encode_message(Changes(message.public_key, entries[:count])), taken

    def _seconds_per_entry(self, sequence: int) -> float:
        return max(GAP_SECONDS_PER_ENTRY, seconds_per_entry(sequence) if self.has_sql_journal else 0.0)

    def _fitting(self, public_key: str, entries: Sequence[RemoteEncryptedEntry]) -> int:
        """Return how many of the entries fit into one segment."""
        left = self._segment_bytes - _HEAD_BYTES - len(public_key.encode())
        for count, entry in enumerate(entries):
            left -= len(entry.ciphertext) + _ENTRY_BYTES
            if left < 0:
                return count
        return len(entries)

    async def until_read(self) -> None:
        """Return when the peer has probably read what was written last; not at all while it does not read."""
        while self._unsent() and not await self._is_released(_POLL_SECONDS):
            pass  # the kernel tells nobody
        await self._is_released(GAP_SECONDS + min(self._seconds, ENTRIES_GAP_SECONDS_MAX))
        while self._unread() and not await self._is_released(_UNREAD_POLL_SECONDS):
            pass

    async def _is_released(self, seconds: float) -> bool:
        """Wait for so long, or until :meth:`release`."""
        try:
            async with asyncio.timeout(seconds):
                return await self._released.wait()
        except TimeoutError:
            return False

    def _unread(self) -> bool:
        """Whether the peer is seen not to have read everything; only one on this machine is seen."""
        return self._socket is not None and bool(unread_bytes(self._socket))

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


def _segment_bytes(sock: socket.socket | None) -> int:
    try:
        return _SEGMENT_BYTES if sock is None else sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    except (OSError, AttributeError):
        return _SEGMENT_BYTES
