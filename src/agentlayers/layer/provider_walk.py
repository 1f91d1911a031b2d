"""
Look inside dependency-injector's providers: what stands in for what, and which parts each is made of.

This is the one place that knows the provider classes. Overriding is followed (a replaced provider's own dependencies do
not count), and an argument keeps the name of the parameter it goes to.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from dependency_injector import containers, providers

from agentlayers.layer.inspection import parameters_of

__all__ = [
    "CALLING",
    "PER_CONTEXT",
    "Parts",
    "copy_in_order",
    "effective",
    "is_leaf_value",
    "is_started",
    "lifetime_of",
    "parts_of",
    "provider_children",
]

Provider = providers.Provider[Any]
Parts = list[tuple[str, Any]]
"""Labels and what stands there: a provider or a literal."""

CALLING: Final = (
    providers.Factory,
    providers.BaseSingleton,
    providers.Callable,
    providers.BaseResource,
)
"""Provider classes that call something with arguments."""

PER_CONTEXT: Final = (
    providers.ContextLocalSingleton,
    providers.ThreadLocalSingleton,
    providers.ContextLocalResource,
)
"""Provider classes whose instance belongs to one request or thread."""


def effective(provider: Provider) -> Provider:
    """Follow overriding (and a dependency's default) to the provider that will answer."""
    seen = 0
    while True:
        following = provider.last_overriding
        if following is None and isinstance(provider, providers.Dependency):
            following = provider.default
        if following is None or isinstance(provider, (providers.Container, providers.Configuration)):
            return provider  # their overriding is how they hold what was put in
        provider = following
        seen += 1
        if seen > 1000:  # an override that overrides itself in a circle
            return provider


def is_started(provider: Provider) -> bool:
    """Tell whether a provider is built or opened once at start."""
    return isinstance(provider, (providers.BaseSingleton, providers.BaseResource)) and not isinstance(
        provider, PER_CONTEXT
    )


def is_leaf_value(provider: Provider) -> bool:
    """Tell whether a provider is a plain value."""
    return type(provider) is providers.Object


def lifetime_of(provider: Provider) -> str:
    """Name how long what a provider gives lives: the ``kind`` of a node."""
    for kinds, name in _KINDS:
        if isinstance(provider, kinds):
            return name
    return type(provider).__name__.lower()


_KINDS: Final[tuple[tuple[Any, str], ...]] = (
    (PER_CONTEXT, "request"),
    (providers.BaseSingleton, "singleton"),
    (providers.BaseResource, "resource"),
    (providers.Factory, "factory"),
    (providers.Coroutine, "coroutine"),
    (providers.TypedConfigurationOption, "option"),
    (providers.ConfigurationOption, "option"),
    (providers.Callable, "callable"),
    (providers.Configuration, "configuration"),
    (providers.DependenciesContainer, "dependencies"),
    (providers.Object, "value"),
    (providers.Container, "container"),
    (providers.Dependency, "dependency"),
)


def parts_of(provider: Provider) -> Parts:
    """List what a provider is made of, each under the name of the parameter it goes to."""
    for kinds, reader in _READERS:
        if isinstance(provider, kinds):
            return reader(provider)
    return [(f"related{index}", related) for index, related in enumerate(_own_related(provider))]


def _own_related(provider: Provider) -> Iterator[Provider]:
    overridden = set(map(id, provider.overridden))
    return (related for related in provider.related if id(related) not in overridden)


def _calling_parts(provider: Any) -> Parts:
    parts: Parts = []
    if providers.is_provider(provider.provides):
        parts.append(("provides", provider.provides))
    parts.extend(zip(_positional_names(provider.provides, len(provider.args)), provider.args, strict=True))
    parts.extend(provider.kwargs.items())
    parts.extend((f"@{name}", value) for name, value in getattr(provider, "attributes", {}).items())
    return parts


def _positional_names(make: Callable[..., Any], count: int) -> list[str]:
    if not count:
        return []
    parameters = (None if providers.is_provider(make) else parameters_of(make)) or ()
    names: list[str] = []
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            names.extend(f"{parameter.name}{index}" for index in range(count - len(names)))
        elif parameter.kind is not inspect.Parameter.KEYWORD_ONLY and not parameter.is_variadic:
            names.append(parameter.name)
    names.extend(f"arg{index}" for index in range(len(names), count))
    return names[:count]


def _indexed(values: Iterable[Any]) -> Parts:
    return [(str(index), value) for index, value in enumerate(values)]


def _selector_parts(provider: Any) -> Parts:
    selector = provider.selector
    parts: Parts = [("selector", selector)]
    branches = provider.providers
    chosen = _chosen_branch(selector)
    if chosen in branches:
        return [*parts, (str(chosen), branches[chosen])]
    return [*parts, *branches.items()]


def _chosen_branch(selector: Any) -> Any:
    """
    Read the choice ahead of the start where it is configuration, so that only that branch is opened.
    """
    if isinstance(selector, (providers.ConfigurationOption, providers.TypedConfigurationOption)):
        try:
            return selector()
        except Exception:  # noqa: BLE001 - an absent option; resolving will say so
            return None
    return None


def _option_parts(provider: Any) -> Parts:
    root = provider._get_root()
    segments = [
        (f"key{index}", part) for index, part in enumerate(provider.get_name_segments()) if providers.is_provider(part)
    ]
    return [("config", root), *segments]


def _container_parts(provider: Any) -> Parts:
    return list(provider.providers.items())


def _method_parts(provider: Any) -> Parts:
    return [("of", provider.provides), *_indexed(provider.args), *provider.kwargs.items()]


_READERS: Final[tuple[tuple[Any, Callable[[Any], Parts]], ...]] = (
    (providers.TypedConfigurationOption, lambda p: [("of", p.args[0])]),
    (CALLING, _calling_parts),
    (providers.Selector, _selector_parts),
    (providers.ConfigurationOption, _option_parts),
    (providers.Configuration, lambda _p: []),
    (providers.DependenciesContainer, _container_parts),
    (providers.Container, _container_parts),
    (
        providers.Object,
        lambda p: [("value", p.provides)] if providers.is_provider(p.provides) else [],
    ),
    (providers.List, lambda p: _indexed(p.args)),
    (providers.Dict, lambda p: list(p.kwargs.items())),
    (providers.MethodCaller, _method_parts),
    (
        (
            providers.ProvidedInstance,
            providers.AttributeGetter,
            providers.ItemGetter,
            providers.Delegate,
        ),
        lambda p: [("of", p.provides)],
    ),
    (providers.Self, lambda _p: []),
)


def provider_children(provider: Provider) -> list[tuple[str, Provider]]:
    """List the providers a provider is made of, overriding followed."""
    return [(label, effective(part)) for label, part in parts_of(provider) if providers.is_provider(part)]


def copy_in_order(roots: Sequence[Provider], memo: dict[int, Any]) -> None:
    """
    Copy providers into ``memo``, dependencies first.

    dependency-injector copies recursively and gives up in a graph a few hundred deep; when dependencies are copied
    first, no copy recurses.
    """
    for provider in _post_order(roots, memo):
        if id(provider) not in memo:
            providers.deepcopy(provider, memo)


def _post_order(roots: Sequence[Provider], memo: dict[int, Any]) -> list[Provider]:
    order: list[Provider] = []
    seen: set[int] = set(memo)
    for root in roots:
        stack: list[tuple[Provider, Iterator[Provider]]] = []
        if id(root) not in seen:
            seen.add(id(root))
            stack.append((root, _copied_with(root)))
        while stack:
            provider, children = stack[-1]
            child = next(children, None)
            if child is None:
                stack.pop()
                order.append(provider)
            elif id(child) not in seen:
                seen.add(id(child))
                stack.append((child, _copied_with(child)))
    return order


def _copied_with(provider: Provider) -> Iterator[Provider]:
    if isinstance(provider, providers.ConfigurationOption):
        yield provider._get_root()
        return
    if isinstance(provider, (providers.Configuration, providers.Self, containers.Container)):
        return
    for related in provider.related:
        if providers.is_provider(related):
            yield related
