"""
Find the service a parameter asks for by its annotation.

An exact match wins over a subclass, and among several the one named like the parameter. Types of the standard
library (``str``, ``Path``) are wired only to a part of the parameter's own name, since they mean nothing by
themselves.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from dependency_injector import providers

from agentlayers.layer.errors import AmbiguousServiceError
from agentlayers.layer.inspection import Parameter, describe_callable, parameters_of, service_candidates
from agentlayers.layer.provider_walk import CALLING, Provider, effective, parts_of

__all__ = ["Offer", "autowire", "best_offer", "is_service_type", "open_parameters"]

Offer = tuple[str, Any, Provider]
"""A name, the service it promises, and its provider."""

_PLAIN_MODULES: Final = frozenset(sys.stdlib_module_names) - {"__main__"}


def is_service_type(candidate: Any) -> bool:
    """Tell whether a type means something by itself; ``str``, ``Path`` and ``Callable`` do not."""
    if not isinstance(candidate, type) and typing.get_origin(candidate) is None:
        return False
    owner = typing.get_origin(candidate) or candidate
    return str(getattr(owner, "__module__", "builtins")).partition(".")[0] not in _PLAIN_MODULES


def best_offer(parameter: Parameter, offers: Collection[Offer]) -> Offer | list[Offer] | None:
    """
    Choose the offer for a parameter.

    Returns:
        One offer; the list of those between which nothing decides; or None.
    """
    candidates = service_candidates(parameter.hint)
    for matches in (_same, _derived):
        for candidate in candidates:
            found = [offer for offer in offers if matches(offer[1], candidate)]
            if not is_service_type(candidate):
                found = [offer for offer in found if offer[0] == parameter.name] if matches is _same else []
            distinct = {id(effective(offer[2])): offer for offer in reversed(found)}
            if len(distinct) == 1:
                return found[0]
            named = [offer for offer in found if offer[0] == parameter.name]
            if named:
                return named[0]
            if found:
                return found
    return None


def _same(offered: Any, wanted: Any) -> bool:
    return bool(offered == wanted)


def _derived(offered: Any, wanted: Any) -> bool:
    return isinstance(offered, type) and isinstance(wanted, type) and wanted in offered.__mro__


def open_parameters(
    make: Any, given: Collection[str], known: Mapping[str, Any] | None = None
) -> tuple[Parameter, ...]:
    """List the parameters that nothing was given for."""
    return tuple(
        parameter
        for parameter in parameters_of(make, known) or ()
        if not parameter.is_variadic and parameter.name not in given
    )


def autowire(
    slots: Mapping[str, Provider], services: Mapping[str, Any], sealed: Collection[int]
) -> list[AmbiguousServiceError]:
    """
    Fill the open parameters of a container's providers from its slots.

    Args:
        slots: The private instance's providers; their arguments are completed in place.
        services: What each slot promises.
        sealed: Ids of providers that were wired elsewhere.
    """
    problems: list[AmbiguousServiceError] = []
    offers = [(name, services[name], slots[name]) for name in slots if services.get(name) is not None]
    known = {getattr(service, "__name__", ""): service for _name, service, _provider in offers}
    ends = {id(effective(provider)) for provider in slots.values()} | {id(p) for p in slots.values()}
    seen: set[int] = set()
    for slot, provider in slots.items():
        own = [offer for offer in offers if offer[0] != slot and effective(offer[2]) is not effective(provider)]
        for part in _inline_parts(effective(provider), ends, seen, sealed):
            problems.extend(_wire_one(slot, part, own, known))
    return problems


def _inline_parts(
    root: Provider, ends: Collection[int], seen: set[int], sealed: Collection[int]
) -> Iterable[Provider]:
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


def _wire_one(
    slot: str, provider: Any, offers: Sequence[Offer], known: Mapping[str, Any]
) -> list[AmbiguousServiceError]:
    if not isinstance(provider, CALLING) or isinstance(provider, providers.TypedConfigurationOption):
        return []
    make = provider.provides
    if make is None or providers.is_provider(make):
        return []
    given = {label for label, _part in parts_of(provider)}
    wired: dict[str, Provider] = {}
    problems = []
    for parameter in open_parameters(make, given, known):
        found = best_offer(parameter, offers)
        if isinstance(found, list):
            problems.append(ambiguous(slot, make, parameter, found))
        elif found is not None:
            wired[parameter.name] = found[2]
    if wired:
        provider.set_kwargs(**{**provider.kwargs, **wired})
    return problems


def ambiguous(
    owner: str, make: Any, parameter: Parameter, offers: Sequence[Offer]
) -> AmbiguousServiceError:
    """Describe a parameter that several parts fit."""
    names = ", ".join(offer[0] for offer in offers)
    return AmbiguousServiceError(
        f"{owner}: {describe_callable(make)}({parameter.name}: {parameter.annotation}) fits several parts: {names}",
        hint=f"name one: {parameter.name}=...",
    )
