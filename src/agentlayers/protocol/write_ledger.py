"""The WriteEntries of one connection that have no Ack yet, by public key, against the window of a server's Hello."""

from __future__ import annotations

from typing import final

from agentlayers.protocol.messages import WriteWindow

__all__ = ["WriteLedger"]


@final
class WriteLedger:
    """
    Counts what is unacknowledged; each public key has a window of its own, so that none waits for another's Acks.

    Args:
        window: What there is room for; :obj:`None` for any number.
    """

    __slots__ = ("_by_key", "_messages", "_window")

    def __init__(self, window: WriteWindow | None) -> None:
        self._window = window
        self._messages: dict[int, tuple[str, int]] = {}
        self._by_key: dict[str, tuple[int, int]] = {}

    def has_room(self, public_key: str) -> bool:
        """Tell whether one more message of a key may be written, however long."""
        if self._window is None:
            return True
        messages, size = self._by_key.get(public_key, (0, 0))
        return messages < self._window.messages and size < self._window.ciphertext_bytes

    def add(self, message_id: int, public_key: str, size: int = 0) -> None:
        """Note a message with so many ciphertext bytes."""
        if message_id in self._messages:  # a peer that counts wrong must not make this grow
            self.settle(message_id)
        messages, total = self._by_key.get(public_key, (0, 0))
        self._messages[message_id] = (public_key, size)
        self._by_key[public_key] = (messages + 1, total + size)

    def settle(self, message_id: int) -> None:
        """Note the Ack of a message."""
        found = self._messages.pop(message_id, None)
        if found is None:
            return
        public_key, size = found
        messages, total = self._by_key.pop(public_key)
        if messages > 1:
            self._by_key[public_key] = (messages - 1, total - size)

    def clear(self) -> None:
        """Forget everything."""
        self._messages.clear()
        self._by_key.clear()
