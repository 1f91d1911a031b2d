"""
Tell a file from its copies, by what the file system alone gives it: its number, and when it was born.

The number alone does not do: ext4 gives that of a file that was deleted to the next one made, so a backup that takes
the place of what it was made of has it again. The file is never opened: closing one of SQLite's would drop its locks.
"""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path
from typing import Final

__all__ = ["file_mark", "is_same_mark"]

_BORN: Final = " born "

_AT_FDCWD: Final = -100
_STATX_BTIME: Final = 0x800
_STATX_BYTES: Final = 256
_STATX_BTIME_AT: Final = 80
"""Where the time of birth stands in ``struct statx``: part of the kernel's interface, the same on every machine."""


def file_mark(path: Path) -> str:
    """
    Return what no copy of a file or directory shares with it, for as long as it lives; renamed or not.

    Raises:
        OSError: There is none.
    """
    found = path.stat()
    born = getattr(found, "st_birthtime", None) or _birth_on_linux(path)
    return f"inode {found.st_ino}" + (f"{_BORN}{born}" if born else "")


def is_same_mark(kept: str, found: str) -> bool:
    """
    Tell whether two marks can be of one file; not every system, nor every earlier release, knew of births.

    >>> is_same_mark("inode 7", "inode 7 born 5.0"), is_same_mark("inode 7 born 4.0", "inode 7 born 5.0")
    (True, False)

    """
    (kept_number, _, kept_birth), (number, _, birth) = kept.partition(_BORN), found.partition(_BORN)
    return kept_number == number and (kept_birth == birth or not kept_birth or not birth)


def _birth_on_linux(path: Path) -> str:
    """Ask the kernel, because Python does not; empty where it or the file system does not know."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import ctypes

        answer = ctypes.create_string_buffer(_STATX_BYTES)
        if ctypes.CDLL(None).statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, answer) == 0:
            (known,) = struct.unpack_from("=I", answer)
            seconds, nanoseconds = struct.unpack_from("=qI", answer, _STATX_BTIME_AT)
            if known & _STATX_BTIME and seconds:  # an image may have been made without times
                return f"{seconds}.{nanoseconds:09d}"
    return ""
