"""
Find the service a parameter asks for by its annotation.

An exact match wins over a subclass, and among several the one named like the parameter. Types of the standard library
(``str``, ``Path``) are wired only to a part of the parameter's own name, since they mean nothing by themselves.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from dependency_injector import providers

from agentlayers.layer.errors import AmbiguousServiceError
from agentlayers.layer.inspection import (
    Parameter,
    describe_callable,
    parameters_of,
    service_candidates,
)
from agentlayers.layer.origin import Origin
from agentlayers.layer.provider_walk import CALLING, Provider, effective, parts_of

__all__ = ["Offer", "Offers", "ambiguous", "autowire", "is_service_type", "open_parameters"]

Offer = tuple[str, Any, Provider]
"""A name, the service it promises, and its provider."""

_Undecided: TypeAlias = tuple[Any, Parameter, list[Offer]]
"""A callable, its parameter, and the offers between which nothing decides."""

_PLAIN_MODULES: Final = frozenset(sys.stdlib_module_names) - {"__main__"}


def is_service_type(candidate: Any) -> bool:
    """Tell whether a type means something by itself; ``str``, ``Path`` and ``Callable`` do not."""
    if not isinstance(candidate, type) and typing.get_origin(candidate) is None:
        return False
    owner = typing.get_origin(candidate) or candidate
    return str(getattr(owner, "__module__", "builtins")).partition(".")[0] not in _PLAIN_MODULES


class Offers:
    """Offers, indexed by what they promise and by every base of it."""

    def __init__(self, offers: Iterable[Offer]) -> None:
        self._same: dict[Any, list[Offer]] = {}
        self._derived: dict[Any, list[Offer]] = {}
        for offer in offers:
            service = offer[1]
            self._same.setdefault(service, []).append(offer)
            for base in service.__mro__[1:] if isinstance(service, type) else ():
                self._derived.setdefault(base, []).append(offer)

    def best(self, parameter: Parameter, excluding: str | None = None) -> Offer | list[Offer] | None:
        """
        Choose the offer for a parameter.

        Args:
            parameter: What is asked for.
            excluding: The slot that asks, which must not feed itself, under this or another name.

        Returns:
            One offer; the list of those between which nothing decides; or None.
        """
        candidates = service_candidates(parameter.hint)
        for index in (self._same, self._derived):
            for candidate in candidates:
                found = self._fitting(index, candidate, parameter, excluding)
                if len({id(effective(offer[2])) for offer in found}) == 1:
                    return found[0]
                named = [offer for offer in found if offer[0] == parameter.name]
                if named:
                    return named[0]
                if found:
                    return found
        return None

    def _fitting(
        self,
        index: Mapping[Any, list[Offer]],
        candidate: Any,
        parameter: Parameter,
        excluding: str | None,
    ) -> list[Offer]:
        found = index.get(candidate, ())
        if found and not is_service_type(candidate):
            found = [offer for offer in found if offer[0] == parameter.name] if index is self._same else []
        if not found or excluding is None:
            return list(found)
        own = {id(effective(offer[2])) for offer in found if offer[0] == excluding}
        return [offer for offer in found if offer[0] != excluding and id(effective(offer[2])) not in own]


def open_parameters(make: Any, given: Collection[str], known: Mapping[str, Any] | None = None) -> tuple[Parameter, ...]:
    """List the parameters that nothing was given for."""
    return tuple(
        parameter
        for parameter in parameters_of(make, known) or ()
        if not parameter.is_variadic and parameter.name not in given
    )


def autowire(
    slots: Mapping[str, Provider],
    services: Mapping[str, Any],
    sealed: Collection[int],
    origin: Callable[[str], Origin],
) -> list[AmbiguousServiceError]:
    """
    Fill the open parameters of a container's providers from its slots.

    Args:
        slots: The private instance's providers; their arguments are completed in place.
        services: What each slot promises.
        sealed: Ids of providers that were wired elsewhere.
        origin: Where a slot was written, for errors.
    """
    problems: list[AmbiguousServiceError] = []
    offers = Offers((name, services[name], slots[name]) for name in slots if services.get(name) is not None)
    known = {getattr(service, "__name__", ""): service for service in services.values() if service is not None}
    ends = {id(effective(provider)) for provider in slots.values()} | {id(p) for p in slots.values()}
    seen: set[int] = set()
    for slot, provider in slots.items():
        for part in _inline_parts(effective(provider), ends, seen, sealed):
            undecided = _wire_one(slot, part, offers, known)
            problems.extend(ambiguous(slot, make, wanted, found, origin(slot)) for make, wanted, found in undecided)
    return problems


def _inline_parts(root: Provider, ends: Collection[int], seen: set[int], sealed: Collection[int]) -> Iterable[Provider]:
    stack = [root]
    while stack:
        provider = stack.pop()
        if id(provider) in seen or id(provider) in sealed:
            continue
        seen.add(id(provider))
        yield provider
        if isinstance(provider, (providers.Container, providers.DependenciesContainer)):
            continue
        for _label, part in parts_of(provider):
            if providers.is_provider(part) and id(part) not in ends and id(effective(part)) not in ends:
                stack.append(effective(part))


def _wire_one(slot: str, provider: Any, offers: Offers, known: Mapping[str, Any]) -> list[_Undecided]:
    """Fill the open parameters of one provider, and give those that several offers fit."""
    if not isinstance(provider, CALLING) or isinstance(provider, providers.TypedConfigurationOption):
        return []
    make = provider.provides
    if make is None or providers.is_provider(make):
        return []
    given = {label for label, _part in parts_of(provider)}
    wired: dict[str, Provider] = {}
    undecided: list[_Undecided] = []
    for parameter in open_parameters(make, given, known):
        found = offers.best(parameter, slot)
        if isinstance(found, list):
            undecided.append((make, parameter, found))
        elif found is not None:
            wired[parameter.name] = found[2]
    if wired:
        provider.set_kwargs(**{**provider.kwargs, **wired})
    return undecided


def ambiguous(
    owner: str, make: Any, parameter: Parameter, offers: Sequence[Offer], origin: Origin
) -> AmbiguousServiceError:
    """Describe a parameter that several parts fit."""
    names = ", ".join(offer[0] for offer in offers)
    return AmbiguousServiceError(
        f"{owner}: {describe_callable(make)}({parameter.name}: {parameter.annotation}) fits several parts: {names}",
        origin=origin,
        hint=f"name one: {parameter.name}=...",
    )
