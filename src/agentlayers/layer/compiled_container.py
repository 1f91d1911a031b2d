"""A container class inside a graph that is being compiled: its private slots, and what replaces them."""

from __future__ import annotations

from typing import Any

from dependency_injector import providers

from agentlayers.errors import LayerError
from agentlayers.layer.container import ContainerLayer, slot_origin
from agentlayers.layer.environment import Binding, Environment
from agentlayers.layer.errors import AmbiguousServiceError, MissingServiceError, suggestion
from agentlayers.layer.inspection import Parameter
from agentlayers.layer.layer import Layer
from agentlayers.layer.naming import service_label
from agentlayers.layer.origin import Origin
from agentlayers.layer.provider_walk import Provider
from agentlayers.layer.wiring import Offers

__all__ = ["CompiledContainer", "container_outputs", "slot_replacements"]


class CompiledContainer:
    """
    A container's private instance inside a graph: its slots, what they promise, where they were written.
    """

    def __init__(self, cls: Any, slots: dict[str, Provider], services: dict[str, Any], instance: Any = None) -> None:
        self.cls, self.slots, self.services, self.instance = cls, slots, services, instance
        promised = {name: service for name, service in services.items() if service is not None}
        self.offers = Offers((name, service, slots[name]) for name, service in promised.items())
        self.known = {getattr(service, "__name__", ""): service for service in promised.values()}
        self.memo: dict[int, Provider] = {}
        for ancestor in cls.__mro__:
            for name, provider in getattr(ancestor, "providers", {}).items():
                if name in slots and providers.is_provider(provider):
                    self.memo.setdefault(id(provider), slots[name])

    def on_demand(self) -> list[Provider]:
        """List the slots that are not started with all the others."""
        return [self.slots[name] for name in getattr(self.cls, "on_demand", ()) if name in self.slots]

    def origin(self, name: str) -> Origin:
        """Find where a slot was written."""
        return slot_origin(self.cls, name)


def slot_replacements(
    layer: ContainerLayer, compiled: CompiledContainer, environment: Environment, problems: list[LayerError]
) -> dict[str, tuple[Any, Any]]:
    """
    Decide what replaces which slot: given by name, brought along with one of those, or provided by type.
    """
    plan: dict[str, tuple[Any, Any]] = {
        name: (value, compiled.services.get(name)) for name, value in layer.replaced.items()
    }
    for value in layer.replaced.values():
        for service in value.outputs if isinstance(value, Layer) else ():
            for name, promised in compiled.services.items():
                if promised == service:
                    plan.setdefault(name, (value, service))
    for name, service in compiled.services.items():
        if service is None or name in plan:
            continue
        found = environment.find_service(service)
        if isinstance(found, Binding):
            _one_slot_only(compiled, name, service, found, problems)
            plan[name] = (found, found.wanted)
        elif found is not None and not isinstance(found, list):
            compiled.slots[name].override(found)
    return plan


def _one_slot_only(
    compiled: CompiledContainer, name: str, service: Any, found: Binding, problems: list[LayerError]
) -> None:
    twins = [slot for slot, promised in compiled.services.items() if promised == service]
    if len(twins) > 1 and twins[0] == name:
        problems.append(
            AmbiguousServiceError(
                f"{service_label(service)} could fill several slots of {compiled.cls.__name__}: {', '.join(twins)}",
                origin=found.layer.declared_at,
                hint=f"name the slot: {compiled.cls.__name__}.layer({name}=...)",
            )
        )


def container_outputs(
    layer: ContainerLayer, compiled: CompiledContainer, problems: list[LayerError]
) -> dict[Any, Provider]:
    """Find the slot of each service that was asked of a container."""
    outputs: dict[Any, Provider] = {}
    for service in layer.outputs:
        found = compiled.offers.best(Parameter("", service, "", required=True, kind=None))
        if found is not None:
            outputs[service] = (found[0] if isinstance(found, list) else found)[2]
        else:
            known = {service_label(s) for s in compiled.services.values() if s is not None}
            problems.append(
                MissingServiceError(
                    f"{compiled.cls.__name__} has no slot for {service_label(service)}"
                    f"{suggestion(service_label(service), known)}",
                    origin=layer.declared_at,
                )
            )
    return outputs
