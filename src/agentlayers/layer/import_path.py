"""Names from outside the catalogue: entry points of installed packages, and import paths a caller allows."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from agentlayers.errors import UsageError
from agentlayers.layer.catalogue import Catalogue, CatalogueEntry

__all__ = ["catalogue_from_entry_points", "import_entry", "is_import_path"]


def catalogue_from_entry_points(group: str) -> Catalogue:
    """
    Collect what installed packages offer to a container.

    An entry point is named ``slot.name`` and points at a class, a function or a catalogue entry (``singleton(...)``,
    ``resource(...)``, ``request(...)`` ...)::

        [project.entry-points."my_app.layers"]
        "transport.carrier_pigeon" = "pigeons.transport:PigeonTransport"

    Raises:
        UsageError: An entry point whose name is not ``slot.name``.
    """
    slots: dict[str, dict[str, Any]] = {}
    for point in entry_points(group=group):
        slot, _, name = point.name.partition(".")
        if not name:
            message = f"the entry point {point.name!r} of group {group!r} is not named slot.name"
            raise UsageError(message)
        slots.setdefault(slot, {})[name] = _entry(point.load())
    return Catalogue(None, **slots)


def is_import_path(name: str) -> bool:
    """Tell whether a name in YAML is meant as ``package.module:Name``."""
    module, colon, attribute = name.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def import_entry(path: str, allowed: Sequence[str]) -> CatalogueEntry:
    """
    Import what a path names, if the caller allows its module.

    Args:
        path: ``package.module:Name``.
        allowed: Packages, modules (with all below them) or whole paths.

    Raises:
        UsageError: Not allowed, or not there.
    """
    module, _, attribute = path.partition(":")
    if not any(path == entry or module == entry or module.startswith(f"{entry}.") for entry in allowed):
        listed = ", ".join(allowed) or "none"
        message = f"{path!r} may not be imported here (allowed: {listed}); give it a name in a catalogue"
        raise UsageError(message)
    try:
        found: Any = import_module(module)
        for step in attribute.split("."):
            found = getattr(found, step)
    except (ImportError, AttributeError) as error:
        message = f"{path!r} cannot be imported: {error}"
        raise UsageError(message) from error
    return _entry(found)


def _entry(found: Any) -> CatalogueEntry:
    if isinstance(found, CatalogueEntry):
        return found
    if not callable(found):
        return CatalogueEntry("value", found)
    opens = hasattr(found, "__aenter__") or hasattr(found, "__enter__")
    generates = inspect.isasyncgenfunction(found) or inspect.isgeneratorfunction(found)
    return CatalogueEntry("resource" if opens or generates else "singleton", found)
