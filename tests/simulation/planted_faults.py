"""
Faults put into the package on purpose, to see that the simulation finds them.

Each replaces one method for as long as the context lasts; what it says it does is what somebody could get wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from agentlayers.journal import projection, replication
from agentlayers.journal.event_journal import Acknowledgement
from agentlayers.server.subscription import Subscription
from agentlayers.sync.link import Link
from agentlayers.sync.pull import Pull
from agentlayers.sync.push import Push
from agentlayers.sync.registration import Registration
from agentlayers.sync.replication import Replication

__all__ = ["PLANTED", "Planted", "planted"]


class Planted(NamedTuple):
    """
    A fault.

    Attributes:
        owner: Whose method is replaced.
        method: Its name.
        around: Given the real one, returns the faulty one.
    """

    owner: Any
    method: str
    around: Callable[[Any], Any]


def _dropped_entry(real: Any) -> Any:
    """The cursor moves beyond an entry that was dropped: one of many that came together."""

    def open_sealed(self: Pull, sealed: Sequence[Any], step: Any) -> None:
        real(self, sealed[:-1] if len(sealed) > 2 else sealed, step)

    return open_sealed


def _other_ack(real: Any) -> Any:
    """An Ack is taken for that of the oldest message in flight, and all before it."""

    def acknowledge(self: Push, message_id: int) -> Any:
        return real(self, max(self._in_flight, default=message_id))

    return acknowledge


def _read_is_acknowledged(real: Any) -> Any:
    """What is read to be sent is taken for acknowledged."""

    async def read(self: Push, course: Any) -> Any:
        batch = await real(self, course)
        journal, store, remote = self._log.journal, self._log.store, self._remote_id
        positions = [stored.position for stored in batch]
        await journal.transact(lambda tx: tx.acknowledge(store, remote, Acknowledgement(positions), through=None))
        return batch

    return read


def _no_relay(real: Any) -> Any:
    """What came from one server is not sent to the other."""
    del real
    return lambda self, position: None


def _incarnation_ignored(real: Any) -> Any:
    """Data that was replaced is taken for what it was."""

    def reset(tx: Any, store: str, remote_id: bytes, *, incarnation: bytes) -> None:
        remote = tx.find_remote(tx.store_number(store), remote_id)
        if remote is None:
            real(tx, store, remote_id, incarnation=incarnation)
        else:
            tx.put_remote(remote._replace(incarnation=incarnation))

    return reset


def _applied_twice(real: Any) -> Any:
    """A projection runs twice for some entries."""

    def apply_rows(tx: Any, schema: Any, rows: Sequence[Any], versions: Any) -> Any:
        if len(rows) == 2:
            real(tx, schema, rows[:1], versions)
        return real(tx, schema, rows, versions)

    return apply_rows


def _lost_wake_up(real: Any) -> Any:
    """A commit while a batch is read wakes nobody."""

    async def push_batch(self: Push, course: Any) -> bool:
        more: bool = await real(self, course)
        course.is_woken = False
        return more

    return push_batch


def _no_new_connection(real: Any) -> Any:
    """A store that comes back on a live connection goes on there."""

    def start(self: Link, registration: Registration) -> None:
        self._left.discard(registration.public_key)
        real(self, registration)

    return start


def _pending_miscounted(real: Any) -> Any:
    """What is in flight does not count as pending."""
    del real

    def count(self: Push) -> None:
        self._registration.counted(0)

    return count


def _no_heartbeat_comparison(real: Any) -> Any:
    """Nobody compares what the server says it has."""
    del real

    async def compare(self: Replication, *args: Any, **kwargs: Any) -> None:
        del self, args, kwargs

    return compare


def _ack_too_early(real: Any) -> Any:
    """The server writes an Ack before what lies below it was sent."""
    del real

    def release(self: Subscription) -> None:
        while self.acks:
            ack = self.acks.popleft()
            if ack.has_own:
                self.next = max(self.next, ack.own_end)
            self.peer.send_ack(ack.message_id, ack.sequences, self.next)

    return release


def _silence_tolerated(real: Any) -> Any:
    """A Pong that does not come is not missed."""
    del real

    async def beat(self: Link) -> None:
        del self
        await asyncio.get_running_loop().create_future()

    return beat


def _stale_count(real: Any) -> Any:
    """An Ack takes what it acknowledges off a count that is out of date."""

    def acknowledged(self: Registration, count: int, now: float) -> None:
        before = self.pending
        real(self, count, now)
        if before is not None:
            self.pending = max(0, before - count)

    return acknowledged


PLANTED: Final = {
    "dropped entry": Planted(Pull, "_open", _dropped_entry),
    "other ack": Planted(Push, "acknowledge", _other_ack),
    "read is acknowledged": Planted(Push, "_read", _read_is_acknowledged),
    "no relay": Planted(Push, "note_relayable", _no_relay),
    "incarnation ignored": Planted(replication, "reset_remote", _incarnation_ignored),
    "applied twice": Planted(projection, "apply_rows", _applied_twice),
    "lost wake-up": Planted(Push, "_push_batch", _lost_wake_up),
    "no new connection": Planted(Link, "start", _no_new_connection),
    "pending miscounted": Planted(Push, "_count", _pending_miscounted),
    "no comparison": Planted(Replication, "compare", _no_heartbeat_comparison),
    "ack too early": Planted(Subscription, "_release_acks", _ack_too_early),
    "silence tolerated": Planted(Link, "_beat", _silence_tolerated),
    "stale count": Planted(Registration, "acknowledged", _stale_count),
}


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Replace a method by its faulty form."""
    fault = PLANTED[name]
    real = getattr(fault.owner, fault.method)
    setattr(fault.owner, fault.method, fault.around(real))
    try:
        yield
    finally:
        setattr(fault.owner, fault.method, real)
