"""
Make entry ids: UUIDv7 used as a hybrid logical clock.

A *tick* is the ordered part of an id: 48 bits of Unix milliseconds, then a 26-bit counter (``rand_a`` and
the 14 bits behind the variant). The rest is random. Ids made here ascend strictly, and sort after every id
they were told of. Pure: the clock and the randomness are the caller's.
"""

from __future__ import annotations

from typing import Final

from agentlayers.limits import CLOCK_DRIFT_SECONDS_MAX, ENTRY_ID_BYTES

__all__ = [
    "entry_id_ceiling",
    "entry_id_floor",
    "entry_id_millis",
    "entry_id_tick",
    "next_entry_id",
]

_COUNTER_BITS: Final = 26
_MILLIS_MAX: Final = (1 << 48) - 1
_VERSION: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62
_ENTROPY_MASK: Final = (1 << 48) - 1
_DRIFT_MILLIS: Final = int(CLOCK_DRIFT_SECONDS_MAX * 1000)


def entry_id_millis(entry_id: bytes) -> int:
    """
    Return the Unix milliseconds an id carries.

    >>> entry_id_millis(bytes.fromhex("01a205f26fc775aa9ea2a6abacadaeaf"))
    1795396104135

    """
    return int.from_bytes(entry_id[:6])


def entry_id_tick(entry_id: bytes) -> int:
    """
    Return the ordered part of an id: milliseconds and counter as one number.

    >>> entry_id_tick(bytes.fromhex("01a205f26fc77000800102abacadaeaf")) & 0x3FFFFFF
    1

    """
    value = int.from_bytes(entry_id)
    return (value >> 80) << _COUNTER_BITS | (value >> 64 & 0xFFF) << 14 | (value >> 48 & 0x3FFF)


def _format_id(tick: int, entropy: int) -> bytes:
    millis, counter = tick >> _COUNTER_BITS, tick & (1 << _COUNTER_BITS) - 1
    high = millis << 80 | _VERSION | (counter >> 14) << 64
    return (high | _VARIANT | (counter & 0x3FFF) << 48 | entropy & _ENTROPY_MASK).to_bytes(16)


def next_entry_id(now_ms: int, highest: bytes, entropy: int) -> bytes:
    """
    Make the id that follows both the clock and the highest id held.

    Args:
        now_ms: The local clock, Unix milliseconds.
        highest: Highest id that counts (see :func:`entry_id_ceiling`); empty when none is held.
        entropy: 48 random bits, so that two replicas never make one id.

    >>> first = next_entry_id(1_000, b"", 7)
    >>> first < next_entry_id(999, first, 0), entry_id_millis(first)
    (True, 1000)

    """
    tick = now_ms << _COUNTER_BITS
    if not highest:
        return _format_id(tick, entropy)
    held = entry_id_tick(highest)
    if held >= tick:
        tick = held + 1
    made = _format_id(tick, entropy)
    if made <= highest:
        # Only after an id that is no UUIDv7 (a foreign peer's): its version bits sort above ours.
        made = _format_id((tick >> _COUNTER_BITS) + 1 << _COUNTER_BITS, entropy)
    return made


def entry_id_floor(millis: int) -> bytes:
    """
    Return the lowest 16 bytes an id of that millisecond can be.

    >>> entry_id_floor(1).hex()
    '00000000000100000000000000000000'

    """
    return min(max(millis, 0), _MILLIS_MAX).to_bytes(6) + bytes(ENTRY_ID_BYTES - 6)


def entry_id_ceiling(now_ms: int) -> bytes:
    """
    Return the bound below which an id may pull the local clock along.

    What lies further ahead than :data:`~agentlayers.limits.CLOCK_DRIFT_SECONDS_MAX` comes from a broken or
    hostile clock and must not drag ours into the future.
    """
    return entry_id_floor(now_ms + _DRIFT_MILLIS + 1)
