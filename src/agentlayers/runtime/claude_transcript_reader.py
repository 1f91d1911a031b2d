"""
Read a transcript line by line, from any place in it, however large it is, while Claude Code appends to it.

A last line without its end may still be written, so it is left for later unless it is whole already. A line that is
no JSON object is told with its number, and the next one is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, final

from agentlayers.limits import PAYLOAD_BYTES_MAX

__all__ = ["LINE_BYTES_MAX", "BrokenLine", "ReadLine", "read_lines"]

LINE_BYTES_MAX: Final = PAYLOAD_BYTES_MAX - 64 * 1024
"""A longer line does not fit into one entry together with what names it."""

_DISCARDED: Final = 1024 * 1024


@final
@dataclass(frozen=True, slots=True)
class ReadLine:
    """
    One line.

    Attributes:
        number: Of the line in its file, from 1.
        end: Offset in bytes behind it.
        text: As it stands in the file.
        record: What it says.
    """

    number: int
    end: int
    text: str
    record: Mapping[str, Any]


@final
@dataclass(frozen=True, slots=True)
class BrokenLine:
    """
    One line that cannot be understood.

    Attributes:
        number: Of the line in its file, from 1.
        end: Offset in bytes behind it.
        reason: What is wrong with it, without what it says.
    """

    number: int
    end: int
    reason: str


def read_lines(path: Path, *, offset: int = 0, number: int = 0) -> Iterator[ReadLine | BrokenLine]:
    """
    Iterate over the lines of a transcript; blank ones are passed over.

    Args:
        path: The file.
        offset: Begin at this byte, which is behind a line.
        number: How many lines there are before it.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(offset)
        end = offset
        while data := file.readline(LINE_BYTES_MAX + 2):
            is_whole, size = data.endswith(b"\n"), len(data)
            if size - is_whole > LINE_BYTES_MAX:
                is_whole, size = _skip(file, data)
                data = b""
            number, end = number + 1, end + size
            line = _line(number, end, data, size)
            if not is_whole and not isinstance(line, ReadLine):
                return
            if line is not None:
                yield line


def _skip(file: BinaryIO, data: bytes) -> tuple[bool, int]:
    """Read on to the end of a line that is too long, without holding it."""
    size, is_whole = len(data), data.endswith(b"\n")
    while not is_whole and (more := file.readline(_DISCARDED)):
        size, is_whole = size + len(more), more.endswith(b"\n")
    return is_whole, size


def _line(number: int, end: int, data: bytes, size: int) -> ReadLine | BrokenLine | None:
    if not data:
        return BrokenLine(number, end, f"it has {size} bytes; at most {LINE_BYTES_MAX} fit into one entry")
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        return BrokenLine(number, end, "it is not UTF-8")
    if not text:
        return None
    try:
        record = json.loads(text, parse_constant=_refuse)
    except ValueError:
        return BrokenLine(number, end, "it is not JSON")
    except RecursionError:
        return BrokenLine(number, end, "it is nested too deeply")
    if not isinstance(record, dict):
        return BrokenLine(number, end, "it is no JSON object")
    return ReadLine(number, end, text, record)


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)
