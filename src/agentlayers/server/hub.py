"""
Fan-out: what is committed to a key reaches every connection that follows it, once and in order.

The hub knows no sockets. It is given writes and subscriptions by :class:`~agentlayers.server.subscription.Peer`
objects and gives them Acks and encoded Changes. A subscriber is *live* (it is sent each commit as it happens)
or *catching up* (it reads from storage, a batch at a time, as fast as it takes them). It becomes live when it
has everything committed so far, and goes back to catching up when it reads too slowly, so nothing has to be
kept for it in memory.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from agentlayers.errors import StorageCorruptionError, StorageError
from agentlayers.limits import CREDIT_ENTRY_BYTES
from agentlayers.logs import get_logger
from agentlayers.protocol.credit import CreditAccount
from agentlayers.protocol.messages import EncryptedEntry, HeadDigest, RemoteEncryptedEntry
from agentlayers.protocol.server_session import encode_changes_frames
from agentlayers.server.broadcast import Broadcast
from agentlayers.server.fan_out import FanOut, Write
from agentlayers.server.intake import Intake
from agentlayers.server.stock_subscription import StockSubscription
from agentlayers.server.storage import Appended, Found, ServerStorage
from agentlayers.server.subscription import Encode, Peer, PendingAck, Subscription

__all__ = ["Hub", "Key"]

logger = get_logger(__name__)

IDLE_CHANNELS_MAX: Final = 1024
"""Keys without subscribers whose head is remembered, so that a writer does not cost a look-up each time."""

APPEND_ENTRIES_MAX: Final = 4096
"""Entries of several waiting writes put into one append; bounds the longest commit."""

APPEND_BYTES_MAX: Final = 4 * 1024 * 1024
"""As above, in bytes of memory (one larger write still goes alone)."""


class Key(NamedTuple):
    """Names a server journal."""

    tenant: str
    public_key: str


class _Channel:
    """One key: who follows it, what waits to be stored, and the first sequence that is not committed."""

    __slots__ = ("fan_out", "head", "key", "lock", "pending", "task", "users")

    def __init__(self, key: Key, fan_out: FanOut) -> None:
        self.key = key
        self.fan_out = fan_out
        self.head: int | None = None
        self.pending: deque[Write] = deque()
        self.task: asyncio.Task[None] | None = None
        # Held by an append until it is in the fan-out, so that a head that is read never runs ahead of it.
        self.lock = asyncio.Lock()
        self.users = 0

    @property
    def subscriptions(self) -> dict[Peer, Subscription]:
        return self.fan_out.subscriptions

    @property
    def is_idle(self) -> bool:
        return not (self.subscriptions or self.pending or self.task or self.fan_out.task or self.users)


class Hub:
    """
    Joins writers, storage and subscribers.

    Args:
        storage: Where entries are kept; open.
        chunk_ids: Numbers the messages that have to be cut; one counter for the whole process.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        storage: ServerStorage,
        *,
        chunk_ids: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._chunk_ids = chunk_ids or itertools.count().__next__
        self._channels: dict[Key, _Channel] = {}
        self._idle: OrderedDict[Key, None] = OrderedDict()
        self._followed: dict[Peer, dict[Key, Subscription]] = {}

    # -- commands of a connection ---------------------------------------------------------------------------
    def write(self, peer: Peer, key: Key, message_id: int, entries: Sequence[EncryptedEntry]) -> int:
        """
        Store entries; the Ack follows once they are durable, in the order of the writes of this key.

        Returns:
            About what they take of memory, which :meth:`Peer.write_settled` will give back: their ciphertext, and
            ``CREDIT_ENTRY_BYTES`` for each, since a message may hold 100,000 empty ones.
        """
        size = sum([len(entry.ciphertext) for entry in entries]) + CREDIT_ENTRY_BYTES * len(entries)
        channel = self._channel(key)
        channel.pending.append(Write(peer, message_id, entries, size))
        if channel.task is None:
            channel.task = asyncio.create_task(self._drain(channel))
        return size

    async def subscribe(
        self, peer: Peer, key: Key, start: int, credit: CreditAccount | None = None, *, is_stock: bool = False
    ) -> None:
        """
        Send a peer everything of a key from ``start`` on, now and later.

        A start beyond the head is taken as the head: it comes from a client that knows a longer history than
        this server (which was restored), and it must not miss what is written now. A start of 1 is taken as 0:
        a stock SQL journal asks for 1 when it has nothing, and the entry 0 once too often harms nobody. That is also
        how it is known: no stock journal of another kind asks for anything but 0 when its process has just begun.

        Args:
            peer: The connection.
            key: What it follows.
            start: First sequence it wants.
            credit: What it takes, if it says so.
            is_stock: It has used nothing that a stock client does not know.

        Raises:
            StorageError: The head cannot be read.
        """
        channel = self._channel(key)
        channel.users += 1
        try:
            head = await self._head(channel)
        finally:
            channel.users -= 1
            self._rest(channel)
        replaced = channel.subscriptions.get(peer)
        intake = replaced.intake if isinstance(replaced, StockSubscription) else None
        if intake is None and is_stock and start > 0:
            intake = Intake(self._clock)
        start = min(0 if start == 1 else max(start, 0), head)
        subscription = StockSubscription(peer, start, intake) if intake else Subscription(peer, start, credit)
        if replaced is not None:
            replaced.is_closed = True
            subscription.acks = replaced.acks
        self._channel(key).subscriptions[peer] = subscription
        self._followed.setdefault(peer, {})[key] = subscription
        channel.fan_out.settle(subscription)

    def unsubscribe(self, peer: Peer, key: Key) -> None:
        """End a subscription; Acks that waited for their place are sent at once."""
        followed = self._followed.get(peer, {})
        subscription = followed.pop(key, None)
        if subscription is None:
            return
        if not followed:
            del self._followed[peer]
        subscription.is_closed = True
        channel = self._channels[key]
        del channel.subscriptions[peer]
        subscription.flush_acks()
        self._rest(channel)

    def leave(self, peer: Peer) -> None:
        """Forget a peer whose connection ended; its writes under way are still stored and sent to the others."""
        for key, subscription in self._followed.pop(peer, {}).items():
            subscription.is_closed = True
            channel = self._channels[key]
            del channel.subscriptions[peer]
            self._rest(channel)

    async def catch_up(self, peer: Peer) -> bool:
        """
        Send a peer one batch from storage, of one key that it lags behind in.

        Returns:
            Whether it still lags behind in any.

        Raises:
            StorageError: The storage cannot be read.
        """
        followed = self._followed.get(peer, {})
        key = next((key for key, found in followed.items() if found.lags), None)
        if key is None:
            return False
        subscription = followed.pop(key)
        followed[key] = subscription  # last in line, so that several keys take turns
        channel = self._channels[key]
        start = subscription.next
        entries = await self._read(channel, subscription)
        if not subscription.is_closed:
            if subscription.next == start:
                subscription.advance(entries, channel.fan_out.encode)
            channel.fan_out.settle(subscription, wake=False)
        return any(found.lags for found in self._followed.get(peer, {}).values())

    def lags(self, peer: Peer) -> bool:
        """Whether a peer is to be read any key from storage for now; not one for which it has given no credit."""
        return any(found.lags for found in self._followed.get(peer, {}).values())

    def pause_seconds(self, peer: Peer) -> float | None:
        """Return when a peer is to be read for again, if it will be without anything else happening."""
        pauses = [found.pause_seconds for found in self._followed.get(peer, {}).values()]
        return min((pause for pause in pauses if pause is not None), default=None)

    async def find(self, key: Key, entry_ids: Sequence[bytes], *, bytes_max: int) -> Found:
        """
        Look entries of a key up by id; see :meth:`~agentlayers.server.storage.ServerStorage.find`.

        Raises:
            StorageError: The storage cannot be read.
        """
        return await self._storage.find(key.tenant, key.public_key, entry_ids, bytes_max=bytes_max)

    async def digest(self, key: Key, cursor: int) -> HeadDigest:
        """
        Say where a key is, and what it has below a cursor, for a heartbeat.

        Raises:
            StorageError: The storage cannot be read.
        """
        channel = self._channel(key)
        channel.users += 1
        try:
            head = await self._head(channel)
            return HeadDigest(head, await self._storage.digest(*key, cursor) if cursor <= head else None)
        finally:
            channel.users -= 1
            self._rest(channel)

    async def close(self) -> None:
        """Wait until every write that was accepted is stored, acknowledged and on its way to all who follow."""
        while tasks := [task for found in self._channels.values() for task in (found.task, found.fan_out.task) if task]:
            await asyncio.wait(tasks)

    # -- writing --------------------------------------------------------------------------------------------
    async def _drain(self, channel: _Channel) -> None:
        try:
            while channel.pending:
                async with channel.lock:
                    await self._append(channel)
        finally:
            channel.task = None
            self._rest(channel)

    async def _append(self, channel: _Channel) -> None:
        """Store the writes that are waiting with one append, acknowledge them, and hand them to the fan-out."""
        writes = _take(channel.pending)
        entries = [entry for write in writes for entry in write.entries]
        appended = Appended((), ())
        try:
            if entries:
                appended = await self._storage.append(*channel.key, entries)
            self._notice_stored(channel, appended)
            self._acknowledge(channel, writes, appended)
        except StorageError as error:
            logger.error("append_failed", tenant=channel.key.tenant, error=str(error))  # noqa: TRY400 - says it all
            _fail(writes, error)
        except Exception as error:  # one key's trouble is its writers', and stays there
            logger.exception("append_failed", tenant=channel.key.tenant)
            _fail(writes, error)
        if appended.new:
            channel.fan_out.offer(appended.new, writes)
        else:
            for write in writes:
                write.settle()

    @staticmethod
    def _notice_stored(channel: _Channel, appended: Appended) -> None:
        """Catch up with an append that failed and was durable after all: who comes back with it has only duplicates."""
        if appended.new or channel.head is None:
            return
        reached = max(appended.sequences, default=-1) + 1
        if reached > channel.head:
            channel.head = reached
            channel.fan_out.skip_to(reached)

    def _acknowledge(self, channel: _Channel, writes: list[Write], appended: Appended) -> None:
        """Give each write its Ack: at once, or where its writer has not everything below it yet, a place in line."""
        if appended.new:
            channel.head = appended.new[0].sequence + len(appended.new)
        own = appended.new[0].sequence if appended.new else channel.head or 0
        position = 0
        for peer, message_id, entries, _ in writes:
            sequences = appended.sequences[position : position + len(entries)]
            position += len(entries)
            own_start = own
            if appended.new:
                own = _after_own(own, sequences)
            subscription = channel.subscriptions.get(peer)
            if subscription is None:
                peer.send_ack(message_id, sequences, None)
            else:
                subscription.acks.append(PendingAck(message_id, sequences, own_start, own))
                channel.fan_out.acknowledge(subscription)

    # -- reading --------------------------------------------------------------------------------------------
    async def _head(self, channel: _Channel) -> int:
        if channel.head is None:
            async with channel.lock:
                if channel.head is None:
                    channel.head = channel.fan_out.published = await self._storage.head(*channel.key)
        return channel.head

    async def _read(self, channel: _Channel, subscription: Subscription) -> list[RemoteEncryptedEntry]:
        """Read the next batch for a subscriber: nothing it wrote itself, nothing that is not published yet."""
        start, head = subscription.next, channel.head or 0
        own_start = subscription.own_start()
        stop = head if own_start is None or own_start <= start else min(own_start, head)
        if start >= stop:
            return []
        entries_max, bytes_max = subscription.next_batch_max()
        entries = await self._storage.read(
            *channel.key,
            start,
            entries_max=min(stop - start, entries_max),
            bytes_max=bytes_max,
        )
        if not entries or entries[0].sequence != start:
            reason = f"sequence {start} is missing below the head {head}; restore the storage from a backup"
            raise StorageCorruptionError(backend="server", operation="read", reason=reason)
        return entries

    def _encoder(self, key: Key) -> Encode:
        def encode(entries: Sequence[RemoteEncryptedEntry], through: int) -> Broadcast:
            return Broadcast(encode_changes_frames(key.public_key, entries, through, self._chunk_ids))

        return encode

    # -- channels -------------------------------------------------------------------------------------------
    def _channel(self, key: Key) -> _Channel:
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = self._new_channel(key)
        self._idle.pop(key, None)
        return channel

    def _new_channel(self, key: Key) -> _Channel:
        channel: _Channel

        def rest() -> None:
            self._rest(channel)

        channel = _Channel(key, FanOut(self._encoder(key), rest))
        return channel

    def _rest(self, channel: _Channel) -> None:
        """Note that nobody uses a channel, and forget the one that was idle longest if there are too many."""
        if not channel.is_idle:
            return
        self._idle[channel.key] = None
        while len(self._idle) > IDLE_CHANNELS_MAX:
            key, _ = self._idle.popitem(last=False)
            del self._channels[key]


def _fail(writes: list[Write], error: Exception) -> None:
    for write in writes:
        write.peer.write_failed(error)


def _take(pending: deque[Write]) -> list[Write]:
    writes = [pending.popleft()]
    count, size = len(writes[0].entries), writes[0].size
    while pending and count < APPEND_ENTRIES_MAX and size < APPEND_BYTES_MAX:
        writes.append(pending.popleft())
        count += len(writes[-1].entries)
        size += writes[-1].size
    return writes


def _after_own(own: int, sequences: Sequence[int]) -> int:
    """Return the end of the run of new sequences, beginning at ``own``, that these entries were given."""
    if sequences and sequences[-1] == own + len(sequences) - 1 and sequences[0] == own:
        return own + len(sequences)  # all new, the usual case
    for sequence in sequences:
        if sequence == own:
            own += 1
    return own
