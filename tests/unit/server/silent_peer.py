"""A connection without a socket, for tests of what decides what it is sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentlayers.protocol.codec import decode_message
from agentlayers.protocol.messages import Changes
from agentlayers.server.broadcast import Broadcast


class SilentPeer:
    """Keeps the sequences that it is sent, and says nothing."""

    is_congested = False
    ack_sequences_max = 100_000

    def __init__(self) -> None:
        self.sequences: list[int] = []

    def send_ack(self, message_id: int, sequences: Sequence[int], through: int | None) -> None: ...

    def send_changes(self, broadcast: Broadcast) -> None:
        for message in broadcast.messages:
            changes = decode_message(message)
            assert isinstance(changes, Changes)
            self.sequences += [entry.sequence for entry in changes.entries]

    def write_settled(self, size: int) -> None: ...

    def write_failed(self, error: Exception) -> None:
        raise error

    def must_catch_up(self) -> None: ...

    def when_read(self, then: Callable[[], None]) -> None: ...
