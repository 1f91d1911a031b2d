"""
Read durations, sizes and booleans the way people write them.

The environment is read only when a caller asks for it, through a mapping, never at import.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Final

from agentlayers.errors import SettingsError

__all__ = ["environment_value", "parse_bool", "parse_bytes", "parse_seconds"]

_SECONDS: Final = {
    "ns": 1e-9, "nano": 1e-9, "nanos": 1e-9,
    "us": 1e-6, "micro": 1e-6, "micros": 1e-6,
    "ms": 1e-3, "milli": 1e-3, "millis": 1e-3, "millisecond": 1e-3, "milliseconds": 1e-3,
    "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0,
    "m": 60.0, "min": 60.0, "mins": 60.0, "minute": 60.0, "minutes": 60.0,
    "h": 3600.0, "hour": 3600.0, "hours": 3600.0,
    "d": 86_400.0, "day": 86_400.0, "days": 86_400.0,
    "w": 604_800.0, "week": 604_800.0, "weeks": 604_800.0,
}  # fmt: skip
_BYTES: Final = {
    "": 1, "b": 1, "byte": 1, "bytes": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_NUMBER_AND_UNIT: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")
_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})


def parse_seconds(value: str | float, *, setting: str = "duration") -> float:
    """
    Turn ``"30 days"``, ``"500 millis"`` or a number of seconds into seconds.

    Args:
        value: A number counts seconds; a text needs a unit, and may add several (``"1 hour 30 minutes"``).
        setting: Named in the error.

    Raises:
        SettingsError: Not a duration, or negative.

    >>> parse_seconds("30 days"), parse_seconds("1 hour 30 minutes"), parse_seconds(2)
    (2592000.0, 5400.0, 2.0)

    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise SettingsError(setting=setting, value=value, expected=_DURATION_HELP)
    if not isinstance(value, str):
        if not 0 <= value <= sys.float_info.max:
            raise SettingsError(setting=setting, value=value, expected=_DURATION_HELP)
        return float(value)
    total, position = 0.0, 0
    while position < len(value):
        match = _NUMBER_AND_UNIT.match(value, position)
        if match is None or match[2].lower() not in _SECONDS:
            raise SettingsError(setting=setting, value=value, expected=_DURATION_HELP)
        total += float(match[1]) * _SECONDS[match[2].lower()]
        position = match.end()
    if not value.strip() or total > sys.float_info.max:
        raise SettingsError(setting=setting, value=value, expected=_DURATION_HELP)
    return total


_DURATION_HELP: Final = "a duration such as '30 days', '1 hour 30 minutes', '500 millis', or a number of seconds"


def parse_bytes(value: str | int, *, setting: str = "size") -> int:
    """
    Turn ``"500 MB"``, ``"64 KiB"`` or a number into bytes.

    Raises:
        SettingsError: Not a size, or negative.

    >>> parse_bytes("500 MB"), parse_bytes("64 KiB"), parse_bytes(10)
    (500000000, 65536, 10)

    """
    help_text = "a size such as '500 MB', '64 KiB', or a number of bytes"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _NUMBER_AND_UNIT.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2].lower() not in _BYTES:
        raise SettingsError(setting=setting, value=value, expected=help_text)
    return int(float(match[1]) * _BYTES[match[2].lower()])


def parse_bool(value: str | bool, *, setting: str = "flag") -> bool:  # noqa: FBT001
    """
    Turn ``true/yes/on/1`` and ``false/no/off/0`` into a boolean, in any case.

    Raises:
        SettingsError: Anything else.
    """
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise SettingsError(setting=setting, value=value, expected="true, yes, on, 1, false, no, off or 0")


def environment_value(name: str, environment: Mapping[str, str], *, prefix: str = "AGENTLAYERS") -> str | None:
    """
    Read ``<prefix>_<name>``; the reference SDK's ``AGENTSDK_<name>`` is accepted where ours is absent.

    An empty value counts as absent, so that ``VAR=`` in a shell means "not set".
    """
    for candidate in (f"{prefix}_{name}", f"AGENTSDK_{name}"):
        value = environment.get(candidate)
        if value:
            return value
    return None
