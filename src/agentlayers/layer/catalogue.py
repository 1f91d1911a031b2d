"""
What YAML may name: for each slot of a container, the implementations and how they live.

A catalogue is plain data, so it loads nothing; import paths are never taken from YAML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentlayers.errors import UsageError

__all__ = ["Catalogue", "CatalogueEntry", "recipe", "request", "request_resource", "resource", "singleton", "value"]

EntryLifetime = Literal["singleton", "resource", "request", "request_resource", "value", "recipe"]


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """
    One implementation of a slot.

    Attributes:
        lifetime: Built once (``singleton``), opened and closed (``resource``), either of them for each request
            (``request``, ``request_resource``), ready made (``value``), or a function that returns a layer
            (``recipe``).
        source: The callable, or the value itself.
    """

    lifetime: EntryLifetime
    source: Any


def singleton(make: Callable[..., Any]) -> CatalogueEntry:
    """Offer ``make`` to YAML, called once per app."""
    return CatalogueEntry("singleton", make)


def resource(make: Callable[..., Any]) -> CatalogueEntry:
    """Offer ``make`` to YAML, opened at start and closed at stop."""
    return CatalogueEntry("resource", make)


def request(make: Callable[..., Any]) -> CatalogueEntry:
    """Offer ``make`` to YAML, called once per request (``app.scope()``) that needs it."""
    return CatalogueEntry("request", make)


def request_resource(make: Callable[..., Any]) -> CatalogueEntry:
    """Offer ``make`` to YAML, opened for each request that asks for it (``app.scope(Service)``) and closed with it."""
    return CatalogueEntry("request_resource", make)


def value(ready: object) -> CatalogueEntry:
    """Offer a ready value to YAML."""
    return CatalogueEntry("value", ready)


def recipe(make: Callable[..., Any]) -> CatalogueEntry:
    """
    Offer a function that returns a layer, called with the YAML's arguments while the file is read.
    """
    return CatalogueEntry("recipe", make)


class Catalogue(Mapping[str, Mapping[str, CatalogueEntry]]):
    """
    Implementations by slot and name.

    A name that is no slot of the container is a *part*: implementations of a service that only occurs inside the
    arguments of others. Catalogues of base containers are inherited; ``|`` adds to one.

    Args:
        extends: A catalogue to start from.
        slots: ``slot={"name": singleton(Class), ...}``; a bare class or function means ``singleton``.
    """

    __slots__ = ("_slots",)

    def __init__(
        self,
        extends: Catalogue | None = None,
        /,
        **slots: Mapping[str, CatalogueEntry | Callable[..., Any]],
    ) -> None:
        merged: dict[str, dict[str, CatalogueEntry]] = {
            slot: dict(entries) for slot, entries in (extends or {}).items()
        }
        for slot, entries in slots.items():
            known = merged.setdefault(slot, {})
            for name, entry in entries.items():
                known[name] = _entry(slot, name, entry)
        self._slots = merged

    def __getitem__(self, slot: str) -> Mapping[str, CatalogueEntry]:
        return self._slots[slot]

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def __or__(self, other: Catalogue) -> Catalogue:
        return Catalogue(self, **other)

    def __repr__(self) -> str:
        return f"<Catalogue of {', '.join(self._slots) or 'nothing'}>"


def _entry(slot: str, name: str, entry: object) -> CatalogueEntry:
    if isinstance(entry, CatalogueEntry):
        return entry
    if callable(entry):
        return CatalogueEntry("singleton", entry)
    message = (
        f"catalogue entry {slot}.{name} is {entry!r}; expected singleton(...), resource(...), request(...), "
        "request_resource(...), value(...) or recipe(...)"
    )
    raise UsageError(message)
