"""How a key's state is kept as bytes."""

from __future__ import annotations

from typing import Any

import msgpack

from agentlayers.journal.causality import Head, KeyState

__all__ = ["decode_state", "encode_state"]


def encode_state(state: KeyState) -> bytes:
    """Write a key's state as MessagePack."""
    return bytes(msgpack.packb([[list(head) for head in state.heads], dict(state.seen), dict(state.applied)]))


def decode_state(data: bytes) -> KeyState:
    """Read what :func:`encode_state` wrote."""
    heads: list[list[Any]]
    heads, seen, applied = msgpack.unpackb(data)
    return KeyState(tuple(Head(*head) for head in heads), seen, applied)
