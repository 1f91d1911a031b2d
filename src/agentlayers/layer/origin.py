"""
Where a layer, a slot or a line of YAML was written.

Every error of the framework points at the user's own line, so origins are taken when a value is made: a frame look-up,
no source file is read.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["UNKNOWN_ORIGIN", "Origin", "caller_origin"]

_ROOM: Final = str(Path(__file__).parent) + os.sep


@dataclass(frozen=True, slots=True)
class Origin:
    """
    One place in a file.

    Attributes:
        file: As the interpreter or the caller named it.
        line: Counted from 1; 0 when only the file is known.
        column: Counted from 1; 0 for Python, where only lines are known.
    """

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        text = _shorten(self.file)
        if self.line:
            text += f":{self.line}"
        if self.column:
            text += f":{self.column}"
        return text


UNKNOWN_ORIGIN: Final = Origin("<unknown>")


def caller_origin() -> Origin:
    """
    Find the first line outside this package that asked for a layer.

    Functions whose name begins with ``layer`` or ``with_``, or ends with ``_layer``, are recipes
    (``Transport.layer_websocket``): the line that called the recipe is what a reader of an error wants to see, so they
    are skipped too.
    """
    frame = sys._getframe(1)
    found = None
    while frame is not None:
        code = frame.f_code
        inside = code.co_filename.startswith(_ROOM) or code.co_filename == "<string>"  # a dataclass's constructor
        if not inside:
            found = Origin(code.co_filename, frame.f_lineno)
            if not (code.co_name.startswith(("layer", "with_")) or code.co_name.endswith("_layer")):
                break
        following = frame.f_back
        if following is None:
            break
        frame = following
    return found or UNKNOWN_ORIGIN


def _shorten(file: str) -> str:
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file
