"""
One form for everything an app can be made from: a layer, a container class or instance.

A blueprint is private to one app: binding, overriding and wiring touch its own copies only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dependency_injector import containers

from agentlayers.errors import LayerError, UsageError
from agentlayers.layer.compiled_container import CompiledContainer
from agentlayers.layer.compiler import Compiler
from agentlayers.layer.container import ContainerLayer, LayerContainer
from agentlayers.layer.environment import Environment
from agentlayers.layer.errors import (
    ServiceNotFoundError,
    suggestion,
)
from agentlayers.layer.layer import FreshLayer, Layer, ProvidedLayer, SuspendedLayer
from agentlayers.layer.naming import service_label, snake_case
from agentlayers.layer.origin import Origin
from agentlayers.layer.override import Override, active_overrides
from agentlayers.layer.overriding import override_part, refuse_unknown
from agentlayers.layer.provider_walk import Provider, effective

__all__ = ["Blueprint", "make_blueprint"]


@dataclass(slots=True)
class Blueprint:
    """
    Named providers, ready to be checked and run.

    Attributes:
        label: What it was made from, for errors and logs.
        roots: The named parts: a container's slots, or a layer's services.
        services: What each root promises.
        outputs: Providers by service, as :meth:`App.get` finds them.
        compiler: Keeps origins, names and problems of the compiled layers.
        wanted: What is started when nobody asks for anything in particular.
        overridden: Providers that an override put in, with the override and the replaced part's name.
    """

    label: str
    roots: dict[str, Provider]
    services: dict[str, Any]
    outputs: dict[Any, Provider]
    compiler: Compiler
    container: CompiledContainer | None = None
    wanted: list[Provider] = field(default_factory=list)

    def origin(self, name: str, provider: Provider) -> Origin | None:
        """Find where a part was declared; for an inline part, where its slot was."""
        found = self.compiler.origins.get(id(provider))
        if found is not None:
            return found
        root = name.partition(".")[0]
        if self.container is not None and root in self.container.slots:
            return self.container.origin(root)
        slot = self.roots.get(root)
        return self.compiler.origins.get(id(effective(slot))) if slot is not None else None

    def find(self, key: Any) -> Provider:
        """
        Find a provider by service type or by name.

        Raises:
            ServiceNotFoundError: Nothing of that service or name.
        """
        if isinstance(key, str):
            if key in self.roots:
                return self.roots[key]
            raise ServiceNotFoundError(f"{self.label} has no part {key!r}{suggestion(key, self.roots)}")
        if key in self.outputs:
            return self.outputs[key]
        derived = {
            id(effective(provider)): provider
            for service, provider in self.outputs.items()
            if isinstance(service, type) and isinstance(key, type) and key in service.__mro__
        }
        if len(derived) == 1:
            return next(iter(derived.values()))
        label = service_label(key)
        known = [service_label(service) for service in self.outputs]
        hint = "several parts are of that type; ask for one by name" if derived else ""
        raise ServiceNotFoundError(
            f"{self.label} offers no {label}{'' if hint else suggestion(label, known)}", hint=hint
        )

    @property
    def problems(self) -> list[LayerError]:
        """What is wrong with the layers and overrides themselves."""
        return self.compiler.problems

    @property
    def overridden(self) -> Mapping[int, tuple[str, Override]]:
        """What overrides put in, by id: the part's name and the override."""
        return self.compiler.overridden

    # -- overrides ----------------------------------------------------------------------------------------
    def apply(self, overrides: Iterable[Override], named: Mapping[str, Provider]) -> None:
        """
        Put overrides in place.

        Args:
            overrides: The later of two for one part wins.
            named: Every part of the graph by its name, for those below the roots.
        """
        for override in overrides:
            name = self._name_of(override, named)
            if name is None:
                known = {*self.roots, *named} if isinstance(override.key, str) else self._service_labels(named)
                refuse_unknown(self.compiler, self.label, override, known)
                continue
            provider = self.roots.get(name) or named[name]
            environment = Environment(container=self.container, excluding=name)
            override_part(self.compiler, name, provider, self._service(name, provider), override, environment)

    def _name_of(self, override: Override, named: Mapping[str, Provider]) -> str | None:
        if isinstance(override.key, str):
            return override.key if override.key in self.roots or override.key in named else None
        found = [name for name, service in self.services.items() if service == override.key]
        below = [name for name, provider in named.items() if self._service(name, provider) == override.key]
        return next(iter(found or below), None)

    def _service(self, name: str, provider: Provider) -> Any:
        return self.services.get(name) or self.compiler.services.get(id(provider))

    def _service_labels(self, named: Mapping[str, Provider]) -> set[str]:
        services = [self._service(name, provider) for name, provider in {**named, **self.roots}.items()]
        return {service_label(service) for service in services if service is not None}


def make_blueprint(target: Any) -> Blueprint:
    """
    Read a layer or container.

    Raises:
        UsageError: It is neither.
    """
    if isinstance(target, Layer):
        return _from_layer(target)
    if isinstance(target, type) and containers.is_container(target):
        return _from_container_class(target)
    message = f"an app is made from a layer or a container class, not from {target!r}"
    if containers.is_container(target):
        message += "; pass its class"
    raise UsageError(message)


def _from_container_class(cls: Any) -> Blueprint:
    compiler = Compiler()
    compiled = compiler.open_container(cls)
    if issubclass(cls, LayerContainer):
        compiler.finish_container(compiled)
    return _of_container(cls.__name__, compiler, compiled)


def _of_container(label: str, compiler: Compiler, compiled: CompiledContainer) -> Blueprint:
    outputs: dict[Any, Provider] = {}
    for name, service in compiled.services.items():
        if service is not None:
            outputs.setdefault(service, compiled.slots[name])
    return Blueprint(
        label, dict(compiled.slots), dict(compiled.services), outputs, compiler, container=compiled,
        wanted=_without(compiled.slots.values(), compiled),
    )  # fmt: skip


def _from_layer(layer: Layer) -> Blueprint:
    compiler = Compiler()
    outputs = compiler.compile(layer)
    head = _head(layer)
    if isinstance(head, ContainerLayer) and id(head) in compiler.containers:
        compiled = compiler.containers[id(head)]
        blueprint = _of_container(compiled.cls.__name__, compiler, compiled)
        blueprint.outputs.update(outputs)
    else:
        blueprint = Blueprint(
            f"the layer at {layer.declared_at}",
            {},
            {},
            dict(outputs),
            compiler,
        )
    blueprint.wanted = _without(outputs.values(), blueprint.container)
    _name_roots(blueprint, outputs)
    blueprint.apply(active_overrides(layer), compiler.parts)
    return blueprint


def _without(parts: Iterable[Provider], compiled: CompiledContainer | None) -> list[Provider]:
    """Leave out what a container starts on demand only."""
    idle = {id(provider) for provider in compiled.on_demand()} if compiled is not None else set()
    return [provider for provider in parts if id(provider) not in idle]


def _head(layer: Layer) -> Layer:
    while isinstance(layer, ProvidedLayer | FreshLayer | SuspendedLayer):
        layer = layer.target if isinstance(layer, ProvidedLayer) else layer.inner
    return layer


def _name_roots(blueprint: Blueprint, outputs: dict[Any, Provider]) -> None:
    """Name what a layer offers and every shared part it brings, after the services."""
    taken = {id(effective(provider)) for provider in blueprint.roots.values()}
    named = list(outputs.items())
    for service, provider in named:
        if id(effective(provider)) in taken:
            continue
        taken.add(id(effective(provider)))
        name = blueprint.compiler.hints.get(id(provider)) or snake_case(service_label(service))
        _add_root(blueprint, name, provider, service)


def _add_root(blueprint: Blueprint, name: str, provider: Provider, service: Any) -> None:
    base, number = name, 1
    while name in blueprint.roots:
        number += 1
        name = f"{base}_{number}"
    blueprint.roots[name] = provider
    blueprint.services[name] = service
