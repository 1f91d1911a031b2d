"""Public names of a package that are loaded at first use, so that importing the package costs nothing."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["lazy_exports"]


def lazy_exports(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """
    Make a package's ``__getattr__`` and ``__dir__``.

    Usage, at the end of ``__init__.py``::

        if not TYPE_CHECKING:
            __getattr__, __dir__ = lazy_exports(__name__, {"Encryption": "encryption"})

    Not for type checkers: they see the imports under ``TYPE_CHECKING``, and so tell of a name that does not exist.

    Args:
        package: Name of the package, whose ``__all__`` lists what it offers.
        homes: By name, the module to import it from, relative to the package; a leading dot goes one package up.
    """
    namespace = vars(sys.modules[package])

    def load(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = namespace[name] = getattr(import_module(f".{home}", package), name)
        return found

    def offered() -> list[str]:
        return sorted(namespace["__all__"])

    return load, offered
