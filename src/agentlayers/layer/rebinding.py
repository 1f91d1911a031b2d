"""
Rebind inherited providers to the slots a subclass replaces.

dependency-injector's subclasses keep the dependents of a replaced provider on the old one, and its ``copy`` decorator
neither reaches grandparents nor keeps one provider one. Here every subclass gets its own copies: a reference to a slot
of any ancestor becomes a reference to the subclass's slot. A slot that refers to its own predecessor (``pool =
Singleton(Cached, inner=Base.pool)``) wraps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dependency_injector import containers, providers

from agentlayers.layer.errors import CycleError, LayerValidationError
from agentlayers.layer.provider_walk import Provider, copy_in_order

__all__ = ["rebind"]


def rebind(cls: Any, ancestors: Sequence[Any], own: Mapping[str, Provider]) -> dict[str, Provider]:
    """
    Make the providers of a new container class.

    Args:
        cls: The class, for errors.
        ancestors: Its container bases in method resolution order.
        own: The providers written in its body.

    Raises:
        LayerValidationError: Replaced slots need each other in a circle.
    """
    chosen = _choose(ancestors, own)
    owners: dict[int, str] = {}
    for ancestor in ancestors:
        _claim(owners, ancestor.providers)
    _claim(owners, chosen)
    before = _choose(ancestors, {})
    memo: dict[int, Any] = {}
    result: dict[str, Provider] = {}
    for name in _in_order(cls, chosen, owners, before):
        if name in before and _refers_to(name, chosen[name], owners):
            copy_in_order([before[name]], memo)
            _redirect(memo, ancestors, name, memo[id(before[name])])
        copy_in_order([chosen[name]], memo)  # one memo throughout: it also keeps alive what its ids stand for
        result[name] = memo[id(chosen[name])]
        _redirect(memo, ancestors, name, result[name])
    return {name: result[name] for name in chosen}


def _choose(ancestors: Sequence[Any], own: Mapping[str, Provider]) -> dict[str, Provider]:
    chosen: dict[str, Provider] = {}
    for ancestor in reversed(ancestors):
        written = getattr(ancestor, "__own_slots__", ancestor.cls_providers)
        chosen.update({name: ancestor.providers[name] for name in written if name in ancestor.providers})
    for ancestor in reversed(ancestors):
        for name, provider in ancestor.providers.items():
            chosen.setdefault(name, provider)
    chosen.update(own)
    return chosen


def _claim(owners: dict[int, str], slots: Any, owner: str | None = None) -> None:
    for name, provider in slots.items():
        owners.setdefault(id(provider), owner or name)
        if isinstance(provider, providers.Container):
            _claim(owners, provider.providers, owner or name)


def _refers_to(name: str, provider: Provider, owners: Mapping[int, str]) -> bool:
    """Tell whether what replaces a slot refers to what the slot held before."""
    seen = {id(provider)}
    stack = [provider]
    while stack:
        for related in _references(stack.pop()):
            if owners.get(id(related)) == name and related is not provider:
                return True
            if id(related) not in seen and id(related) not in owners:
                seen.add(id(related))
                stack.append(related)
    return False


def _redirect(memo: dict[int, Any], ancestors: Sequence[Any], name: str, copied: Provider) -> None:
    for ancestor in ancestors:
        original = ancestor.providers.get(name)
        if original is not None:
            _redirect_one(memo, original, copied)


def _redirect_one(memo: dict[int, Any], original: Any, copied: Any) -> None:
    memo[id(original)] = copied
    if isinstance(original, providers.Container) and isinstance(copied, providers.Container):
        inside: Any = copied.providers
        inner: Any = original.providers
        for name in inner:
            if name in inside:
                _redirect_one(memo, inner[name], inside[name])


def _in_order(
    cls: Any, chosen: Mapping[str, Provider], owners: Mapping[int, str], before: Mapping[str, Provider]
) -> list[str]:
    """Sort the slots so that each comes after those it refers to."""
    order: list[str] = []
    state: dict[str, bool] = {}  # False while being visited, True when done
    for root in chosen:
        if root in state:
            continue
        state[root] = False
        stack = [(root, _slots_used(root, chosen[root], owners, before))]
        while stack:
            name, used = stack[-1]
            following = next(used, None)
            if following is None:
                stack.pop()
                state[name] = True
                order.append(name)
            elif following not in chosen:
                continue
            elif following not in state:
                state[following] = False
                stack.append((following, _slots_used(following, chosen[following], owners, before)))
            elif not state[following]:
                circle = [entry[0] for entry in stack]
                raise _circle(cls, [*circle[circle.index(following) :], following])
    return order


def _circle(cls: Any, names: list[str]) -> LayerValidationError:
    problem = CycleError(
        f"the slots of {cls.__name__} need each other in a circle: {' -> '.join(names)}",
        hint=f"give one of them in {cls.__name__} a provider that does not need the others",
    )
    return LayerValidationError([problem], what=f"container {cls.__name__}")


def _slots_used(
    name: str, provider: Provider, owners: Mapping[int, str], before: Mapping[str, Provider]
) -> Iterator[str]:
    """Name the other slots a slot's provider refers to, through its inline parts."""
    seen = {id(provider)}
    stack = [provider]
    while stack:
        for related in _references(stack.pop()):
            if id(related) in seen:
                continue
            seen.add(id(related))
            owner = owners.get(id(related))
            if owner is not None and owner != name:
                yield owner
            else:
                stack.append(before.get(name, related) if owner == name else related)


def _references(provider: Provider) -> Iterator[Provider]:
    if isinstance(provider, providers.ConfigurationOption):
        yield provider._get_root()
    elif not isinstance(provider, (providers.Configuration, providers.Self, containers.Container)):
        yield from (related for related in provider.related if providers.is_provider(related))
