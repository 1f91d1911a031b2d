"""
Find layer files that go by a name.

In an installed wheel they are package data; in a checkout they are in the repository's ``layers``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from agentlayers.layer.errors import PresetNotFoundError, suggestion

__all__ = ["default_preset_directories", "find_preset", "list_presets"]

_PACKAGE: Final = Path(__file__).resolve().parents[1]
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def default_preset_directories() -> tuple[Path, ...]:
    """Give the directories of the presets that ship with the package, those that exist."""
    candidates = [_PACKAGE / "presets"]
    if _PACKAGE.parent.name == "src":
        candidates.append(_PACKAGE.parents[1] / "layers")
    return tuple(directory for directory in candidates if directory.is_dir())


def list_presets(directories: Iterable[Path] | None = None) -> dict[str, Path]:
    """Give all presets by name; the first directory that has a name wins."""
    found: dict[str, Path] = {}
    for directory in default_preset_directories() if directories is None else directories:
        for path in sorted(directory.glob("*.y*ml")):
            found.setdefault(path.stem, path)
    return found


def find_preset(name: str, directories: Sequence[Path] | None = None) -> Path:
    """
    Find the file of a preset.

    Args:
        name: Without directory; the suffix may be left out.
        directories: Where to look; the package's own presets when left out.

    Raises:
        PresetNotFoundError: There is none of that name.
    """
    presets = list_presets(directories)
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    if _NAME.fullmatch(stem) and stem in presets:
        return presets[stem]
    raise PresetNotFoundError(f"no preset {name!r}{suggestion(stem, presets)}")
