"""
One key's subscribers, and what was committed to it on its way to them.

A commit is offered to each subscriber in turn, in slices: between two slices the loop looks at its sockets, so that a
writer's next entries are stored while a long fan-out is still going on. What was committed meanwhile goes out
together, as one message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from agentlayers.limits import CHANGES_BATCH_BYTES_MAX, CHANGES_BATCH_ENTRIES_MAX
from agentlayers.logs import get_logger
from agentlayers.protocol.credit import cost_of
from agentlayers.protocol.messages import EncryptedEntry, RemoteEncryptedEntry
from agentlayers.server.broadcast import Broadcast
from agentlayers.server.subscription import Encode, Peer, Subscription

__all__ = ["FanOut", "Write"]

logger = get_logger(__name__)

SLICE_SUBSCRIBERS: Final = 32
"""Subscribers that are sent something before the loop looks at its sockets again; a few tenths of a millisecond."""

_ENTRIES_MAX: Final = CHANGES_BATCH_ENTRIES_MAX
"""So many entries of several commits are put together; bounds what is encoded in one go."""


class Write(NamedTuple):
    """Entries that a connection wants stored."""

    peer: Peer
    message_id: int
    entries: Sequence[EncryptedEntry]
    size: int

    def settle(self) -> None:
        """Tell its connection that nothing of it is under way any more."""
        self.peer.write_settled(self.size)


class _Commit(NamedTuple):
    entries: Sequence[RemoteEncryptedEntry]
    writes: Sequence[Write]


class FanOut:
    """
    Sends the commits of one key to the connections that follow it, each once and in order.

    Args:
        encode: Makes the messages; called once for all subscribers that are at the same place.
        on_idle: Called when a fan-out that took several slices has ended.

    Attributes:
        encode: As given.
        subscriptions: Who follows the key.
        published: First sequence that was not offered to the subscribers yet. A subscriber that has everything below
            it is live.
        task: A fan-out of several slices that is going on.
    """

    __slots__ = ("_on_idle", "_waiting", "encode", "published", "subscriptions", "task")

    def __init__(self, encode: Encode, on_idle: Callable[[], None]) -> None:
        self.encode = encode
        self._on_idle = on_idle
        self._waiting: deque[_Commit] = deque()
        self.subscriptions: dict[Peer, Subscription] = {}
        self.published = 0
        self.task: asyncio.Task[None] | None = None

    def offer(self, entries: Sequence[RemoteEncryptedEntry], writes: Sequence[Write]) -> None:
        """
        Send what was committed to everybody, now or behind what is still being sent.

        Args:
            entries: Contiguous with those offered before; not empty.
            writes: What they came with; settled once everybody has been offered them, so that a writer cannot run
                further ahead of the subscribers than what it may have under way.
        """
        self._waiting.append(_Commit(entries, writes))
        if self.task is not None:
            return
        if len(self.subscriptions) > SLICE_SUBSCRIBERS:
            self.task = asyncio.create_task(self._run())
            return
        publication, settled = self._next()
        try:
            self._send(publication, self.subscriptions.values())
        except Exception:  # whoever missed something reads it from storage
            logger.exception("fan_out_failed")
        finally:
            _settle_all(settled)

    def skip_to(self, head: int) -> None:
        """Have everybody read from storage what was stored below ``head`` and never offered."""
        self.published = max(self.published, head)
        for subscription in list(self.subscriptions.values()):
            self.settle(subscription)

    def settle(self, subscription: Subscription, *, wake: bool = True) -> None:
        """Decide whether a subscriber is live, and release the Acks whose place it has reached."""
        subscription.advance((), self.encode)
        subscription.is_live = subscription.next >= self.published
        if wake and subscription.is_behind:
            subscription.peer.must_catch_up()

    def acknowledge(self, subscription: Subscription) -> None:
        """Release a new Ack at once if its writer has everything below it."""
        subscription.advance((), self.encode)

    async def _run(self) -> None:
        try:
            while self._waiting:
                publication, settled = self._next()
                try:
                    subscribers = iter(list(self.subscriptions.values()))
                    while some := list(islice(subscribers, SLICE_SUBSCRIBERS)):
                        self._send(publication, some)
                        await asyncio.sleep(0)
                except Exception:  # as in offer()
                    logger.exception("fan_out_failed")
                finally:
                    _settle_all(settled)
        finally:
            self.task = None
            self._on_idle()

    def _next(self) -> tuple[_Publication, list[Write]]:
        """Take what waits, as much as goes together."""
        entries, writes = self._waiting.popleft()
        settled = [*writes]
        if self._waiting and len(entries) < _ENTRIES_MAX:
            entries = [*entries]
            while self._waiting and len(entries) < _ENTRIES_MAX:
                more, writes = self._waiting.popleft()
                entries += more
                settled += writes
        publication = _Publication(entries, self.encode)
        self.published = max(self.published, publication.end)
        return publication, settled

    def _send(self, publication: _Publication, subscriptions: Iterable[Subscription]) -> None:
        first, end = publication.first, publication.end
        for subscription in subscriptions:
            # The usual case stands here, unfolded: it is what a delivery costs.
            if (
                subscription.next == first
                and subscription.is_live
                and not subscription.acks
                and not subscription.is_closed
                and not subscription.peer.is_congested
                and (not subscription.is_bounded or subscription.claim(publication.cost(), end - first))
            ):
                for broadcast in publication.shared():
                    subscription.peer.send_changes(broadcast)
                subscription.next = end
            elif not subscription.is_closed:
                self._send_alone(publication, subscription)

    def _send_alone(self, publication: _Publication, subscription: Subscription) -> None:
        """Bring one subscriber forward that cannot share the messages of the others."""
        # It may be ahead: of what it wrote itself it was told when that was committed.
        at_place = subscription.is_live and subscription.next >= publication.first
        if at_place and not subscription.peer.is_congested:
            for batch in publication.batches():
                subscription.advance(batch, self.encode)
        self.settle(subscription)


class _Publication:
    """Entries for everybody, and the messages that carry them, which are made when the first subscriber needs them."""

    __slots__ = ("_cost", "_encode", "_entries", "_shared", "end", "first")

    def __init__(self, entries: Sequence[RemoteEncryptedEntry], encode: Encode) -> None:
        self._entries = entries
        self._encode = encode
        self._shared: list[Broadcast] | None = None
        self._cost: int | None = None
        self.first = entries[0].sequence
        self.end = entries[-1].sequence + 1

    def shared(self) -> list[Broadcast]:
        if self._shared is None:
            self._shared = [self._encode(batch, batch[-1].sequence + 1) for batch in self.batches()]
        return self._shared

    def cost(self) -> int:
        """Return what all of it costs a subscriber's credit."""
        if self._cost is None:
            self._cost = cost_of(self._entries)
        return self._cost

    def batches(self) -> Iterator[Sequence[RemoteEncryptedEntry]]:
        """Cut the entries into Changes of bounded size."""
        entries = self._entries
        start = size = 0
        for index, entry in enumerate(entries):
            size += len(entry.ciphertext)
            too_many = index - start >= CHANGES_BATCH_ENTRIES_MAX
            if index > start and (too_many or size > CHANGES_BATCH_BYTES_MAX):
                yield entries[start:index]
                start, size = index, len(entry.ciphertext)
        if start < len(entries):
            yield entries[start:]


def _settle_all(writes: Sequence[Write]) -> None:
    for write in writes:
        write.settle()
