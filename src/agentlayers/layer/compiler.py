"""
Turn a layer into dependency-injector providers.

A layer value with the same dependencies becomes one provider object, so a diamond is opened once. What ``provide``
brings is looked at only when something asks for it. The work is done by generators on a stack of our own, so a chain of
layers may be thousands deep.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping
from typing import Any

from dependency_injector import providers

from agentlayers.layer.compiled_container import CompiledContainer, container_outputs, slot_replacements
from agentlayers.layer.container import (
    ContainerLayer,
    container_services,
    instantiate,
    slot_origin,
)
from agentlayers.layer.dynamic import CatchCall, SharedCall, TapCall, UnwrapCall
from agentlayers.layer.environment import Binding, Environment
from agentlayers.layer.errors import (
    DuplicateServiceError,
)
from agentlayers.layer.inspection import Parameter, parameters_of
from agentlayers.layer.layer import (
    CaughtLayer,
    FreshLayer,
    Layer,
    MergedLayer,
    PrimitiveLayer,
    ProvidedLayer,
    SharedLayer,
    SuspendedLayer,
    TappedLayer,
    UnwrappedLayer,
)
from agentlayers.layer.naming import service_label, snake_case
from agentlayers.layer.origin import Origin
from agentlayers.layer.override import Override, active_overrides
from agentlayers.layer.overriding import override_part, refuse_unknown
from agentlayers.layer.provider_walk import Provider, copy_in_order, effective
from agentlayers.layer.wiring import ambiguous, autowire, open_parameters

__all__ = ["Compiler"]

Outputs = dict[Any, Provider]
Step = Generator[Any, Any, Outputs]
"""A compile step: yields (layer, environment) or a binding, is sent the outputs."""


class Compiler:
    """
    The compiling of one graph.

    Attributes:
        problems: What is wrong with the layers themselves.
        origins: Where each provider was declared, by id.
        hints: What each provider should be called, by id.
        parts: The same, the other way round.
        services: The service each provider stands for, by id.
        containers: The containers met, outermost first.
        overridden: What overrides put in, by id: the part's name and the override.
        checked: Providers that are not part of the graph but have to be valid (what ``catch`` guards).
    """

    def __init__(self) -> None:
        self.problems: list[Any] = []
        self.origins: dict[int, Origin] = {}
        self.hints: dict[int, str] = {}
        self.parts: dict[str, Provider] = {}
        self.services: dict[int, Any] = {}
        self.containers: dict[int, CompiledContainer] = {}
        self.checked: list[Provider] = []
        self.overridden: dict[int, tuple[str, Override]] = {}
        self.sealed: set[int] = set()
        self._taken: set[str] = set()
        self._primitives: dict[Any, Provider] = {}
        self._done: dict[tuple[int, int], Outputs] = {}
        self._alive: list[Any] = []

    def keep(self, thing: Any) -> None:
        """Keep something alive whose id is remembered."""
        self._alive.append(thing)

    def compile(self, layer: Layer, environment: Environment | None = None) -> Outputs:
        """Compile ``layer`` and what it brings; the outputs are providers by service."""
        return self._run((layer, environment or Environment()))

    # -- the stack ---------------------------------------------------------------------------------
    def _run(self, request: Any) -> Outputs:
        stack: list[tuple[Any, Step]] = []
        answer = self._begin(request, stack)
        while stack:
            asked, step = stack[-1]
            try:
                following = step.send(answer)
            except StopIteration as finished:
                stack.pop()
                answer = finished.value
                self._remember(asked, answer)
            else:
                answer = self._begin(following, stack)
        assert answer is not None
        return answer

    def _begin(self, request: Any, stack: list[tuple[Any, Step]]) -> Outputs | None:
        """Answer from memory, or push a step and answer None, which starts it."""
        if isinstance(request, Binding):
            if request.outputs is not None:
                return request.outputs
            stack.append((request, self._step(request.layer, request.environment)))
            return None
        layer, environment = request
        known = self._done.get((id(layer), id(environment)))
        if known is not None and not isinstance(layer, FreshLayer):
            return known
        self._alive.append(environment)
        stack.append((request, self._step(layer, environment)))
        return None

    def _remember(self, request: Any, outputs: Outputs) -> None:
        if isinstance(request, Binding):
            request.outputs = outputs
        else:
            self._done[id(request[0]), id(request[1])] = outputs

    def _step(self, layer: Layer, environment: Environment) -> Step:
        self._alive.append(layer)
        for kind, method in _STEPS.items():
            if isinstance(layer, kind):
                step: Step = method(self, layer, environment)
                return step
        message = f"unknown kind of layer: {layer!r}"
        raise TypeError(message)

    # -- one kind of layer each --------------------------------------------------------------------
    def _primitive(self, layer: PrimitiveLayer, environment: Environment) -> Step:
        if layer.lifetime == "value":
            key: Any = (id(layer), id(environment.scope))
            if key not in self._primitives:
                self._primitives[key] = self._named(providers.Object(layer.source), layer.service, layer, environment)
            return {layer.service: self._primitives[key]}
        wired = yield from self._wire(layer.source, layer.args, layer.arguments, layer, environment)
        key = (
            id(layer),
            id(environment.scope),
            tuple(sorted((name, id(p)) for name, p in wired.items())),
        )
        known = self._primitives.get(key)
        if known is None:
            args = []
            for index, value in enumerate(layer.args):
                args.append((yield from self._argument(value, self._positional(layer, index), environment)))
            kwargs: dict[str, Any] = {}
            for name, value in layer.arguments.items():
                kwargs[name] = yield from self._argument(value, self._parameter(layer.source, name), environment)
            kind = providers.Resource if layer.lifetime == "resource" else providers.Singleton
            known = kind(layer.source)
            known.set_args(*args)
            known.set_kwargs(**{**kwargs, **wired})
            self._primitives[key] = self._named(known, layer.service, layer, environment)
        return {layer.service: known}

    def _wire(
        self,
        make: Any,
        args: tuple[Any, ...],
        arguments: Mapping[str, Any],
        layer: Layer,
        environment: Environment,
    ) -> Generator[Any, Any, dict[str, Provider]]:
        """Find a provider for each open parameter that the environment can fill."""
        known = environment.names()
        positional = [p.name for p in parameters_of(make, known) or () if not p.is_variadic][: len(args)]
        wired: dict[str, Provider] = {}
        for parameter in open_parameters(make, {*arguments, *positional}, known):
            found = environment.find(parameter)
            if isinstance(found, list):
                problem = ambiguous(service_label(layer.outputs[0]), make, parameter, found, layer.declared_at)
                self.problems.append(problem)
            elif isinstance(found, Binding):
                outputs = yield found
                if found.wanted in outputs:
                    wired[parameter.name] = outputs[found.wanted]
            elif found is not None:
                wired[parameter.name] = found
        return wired

    def _argument(self, value: Any, parameter: Parameter | None, environment: Environment) -> Generator[Any, Any, Any]:
        """
        Turn a given argument into what dependency-injector takes; layers inside become private parts.
        """
        if isinstance(value, Layer):
            private = environment.nested()
            outputs = yield (value, private)
            return _pick(outputs, parameter)
        if isinstance(value, list | tuple) and any(isinstance(item, Layer) for item in value):
            items = []
            for item in value:
                items.append((yield from self._argument(item, None, environment)))  # noqa: PERF401 - it yields
            return providers.List(*items)
        if isinstance(value, dict) and any(isinstance(item, Layer) for item in value.values()):
            entries = {}
            for key, item in value.items():
                entries[key] = yield from self._argument(item, None, environment)
            return providers.Dict(entries)
        if providers.is_provider(value):
            return self.copied(value, environment)
        return value

    def copied(self, provider: Provider, environment: Environment | None = None) -> Provider:
        """
        Copy a user's provider, so that nothing of it is bound outside this graph; container slots stay.
        """
        memo = environment.container_memo() if environment is not None else {}
        copy_in_order([provider], memo)
        self._alive.append(memo)
        copied: Provider = memo[id(provider)]
        return copied

    def _positional(self, layer: PrimitiveLayer, index: int) -> Parameter | None:
        parameters = parameters_of(layer.source) or ()
        return parameters[index] if index < len(parameters) else None

    def _parameter(self, make: Any, name: str) -> Parameter | None:
        return next((p for p in parameters_of(make) or () if p.name == name), None)

    def _merged(self, layer: MergedLayer, environment: Environment) -> Step:
        united: Outputs = {}
        for part in layer.layers:
            outputs = yield (part, environment)
            for service, provider in outputs.items():
                present = united.setdefault(service, provider)
                if effective(present) is not effective(provider):
                    self._duplicate(service, [present, provider], layer)
        return united

    def _provided(self, layer: ProvidedLayer, environment: Environment) -> Step:
        inner = Environment(environment)
        for other in layer.others:
            binding: Binding | None = None
            for service in other.outputs:
                present = inner.bindings.get(service)
                if present is not None and present.layer is not other:
                    self.problems.append(_twice(service, present.layer, other, layer))
                binding = Binding(other, environment, service) if binding is None else binding.also(service)
                inner.bindings[service] = binding
        outputs: Outputs = yield (layer.target, inner)
        if layer.keep:
            outputs = dict(outputs)
            for service, binding in inner.bindings.items():
                if service not in outputs:
                    brought = yield binding
                    outputs[service] = brought[service]
        return outputs

    def _fresh(self, layer: FreshLayer, environment: Environment) -> Step:
        outputs: Outputs = yield (layer.inner, environment.nested())
        return outputs

    def _suspended(self, layer: SuspendedLayer, environment: Environment) -> Step:
        outputs: Outputs = yield (layer.inner, environment)
        return outputs

    def _tapped(self, layer: TappedLayer, environment: Environment) -> Step:
        inner: Outputs = yield (layer.inner, environment)
        parts = [inner[service] for service in layer.outputs]
        node = providers.Singleton(TapCall(layer.function), *parts)
        return self._spread(node, layer, environment)

    def _shared(self, layer: SharedLayer, environment: Environment) -> Step:
        guarded = yield (layer.inner, Environment())
        self.checked.extend(guarded.values())
        return self._spread(providers.Resource(SharedCall(layer)), layer, environment)

    def _caught(self, layer: CaughtLayer, environment: Environment) -> Step:
        recorder = environment.recording()
        guarded = yield (layer.inner, recorder)
        self.checked.extend(guarded.values())
        needs = yield from self._needs(recorder)
        node = providers.Resource(CatchCall(layer, tuple(needs)))
        node.set_args(*needs.values())
        return self._spread(node, layer, environment)

    def _needs(self, recorder: Environment) -> Generator[Any, Any, Outputs]:
        needs: Outputs = {}
        for service, found in list(recorder.used().items()):
            if isinstance(found, Binding):
                outputs = yield found
                needs[service] = outputs[found.wanted]
            else:
                needs[service] = found
        return needs

    def _unwrapped(self, layer: UnwrappedLayer, environment: Environment) -> Step:
        wired = yield from self._wire(layer.make, layer.args, layer.arguments, layer, environment)
        node = providers.Resource(UnwrapCall(layer))
        node.set_args(*layer.args)
        node.set_kwargs(**{**layer.arguments, **wired})
        return self._spread(node, layer, environment)

    def _spread(self, node: Provider, layer: Layer, environment: Environment) -> Outputs:
        """Give each output of a node that makes several services together."""
        services = layer.outputs
        self._named(node, services[0], layer, environment)
        if len(services) == 1:
            return {services[0]: node}
        self.parts.pop(self.hints.pop(id(node), ""), None)
        self.origins[id(node)] = layer.declared_at
        outputs: Outputs = {}
        for index, service in enumerate(services):
            outputs[service] = self._named(node.provided[index], service, layer, environment)
        return outputs

    # -- containers --------------------------------------------------------------------------------
    def _container(self, layer: ContainerLayer, environment: Environment) -> Step:
        compiled = self.open_container(layer.container)
        self.containers[id(layer)] = compiled
        plan = slot_replacements(layer, compiled, environment, self.problems)
        for name, (source, service) in plan.items():
            slots = Environment(environment, container=compiled, excluding=name)
            if isinstance(source, Binding):
                slots = Environment(source.environment, container=compiled, excluding=name, fallback=True)
                outputs = yield (source.layer, slots)
            elif isinstance(source, Layer):
                outputs = yield (source, slots)
            else:
                outputs = {service: self._slot_value(source, slots)}
            compiled.slots[name].override(_pick_service(outputs, service))
        self.finish_container(compiled)
        return container_outputs(layer, compiled, self.problems)

    def open_container(self, cls: Any) -> CompiledContainer:
        """Make a private instance of a container class."""
        instance = instantiate(cls)
        self._alive.append(instance)
        compiled = CompiledContainer(cls, dict(instance.providers), container_services(cls), instance)
        for name, provider in compiled.slots.items():
            self.services[id(provider)] = compiled.services[name]
        return compiled

    def finish_container(self, compiled: CompiledContainer) -> None:
        """Apply the overrides of this task, then wire what is open."""
        for override in active_overrides(compiled.cls):
            self._override_slot(compiled, override)
        self.problems.extend(autowire(compiled.slots, compiled.services, self.sealed, compiled.origin))
        for slot in compiled.slots.values():
            nested = slot.container if isinstance(slot, providers.Container) else None
            if nested is not None and "__own_slots__" in vars(nested.declarative_parent):
                parent = nested.declarative_parent
                inside, origin = container_services(parent), functools.partial(slot_origin, parent)
                self.problems.extend(autowire(nested.providers, inside, self.sealed, origin))

    def _override_slot(self, compiled: CompiledContainer, override: Override) -> None:
        for name, provider in compiled.slots.items():
            service = compiled.services[name]
            if override.key == name or (service is not None and override.key == service):
                environment = Environment(container=compiled, excluding=name)
                override_part(self, name, provider, service, override, environment)
                return
        refuse_unknown(self, compiled.cls.__name__, override, compiled.slots)

    def _slot_value(self, value: Any, environment: Environment) -> Provider:
        if providers.is_provider(value):
            return self.copied(value, environment)
        made = providers.Object(value)
        self._alive.append(made)
        return made

    # -- bookkeeping -------------------------------------------------------------------------------
    def _named(self, provider: Provider, service: Any, layer: Layer, environment: Environment) -> Provider:
        self.origins[id(provider)] = layer.declared_at
        self.services[id(provider)] = service
        self.sealed.add(id(provider))
        self._alive.append(provider)
        if not environment.is_private:
            name = base = snake_case(service_label(service))
            number = 1
            while name in self._taken:
                number += 1
                name = f"{base}_{number}"
            self._taken.add(name)
            self.hints[id(provider)] = name
            self.parts[name] = provider
        return provider

    def _duplicate(self, service: Any, found: list[Provider], layer: Layer) -> None:
        places = [str(self.origins.get(id(provider), "?")) for provider in found]
        self.problems.append(
            DuplicateServiceError(
                f"{service_label(service)} is offered twice in one merge: at {places[0]} and at {places[1]}",
                origin=layer.declared_at,
                hint="keep one of them, or feed one into what needs it with .provide()",
            )
        )


_STEPS: dict[type[Layer], Any] = {
    PrimitiveLayer: Compiler._primitive,
    MergedLayer: Compiler._merged,
    ProvidedLayer: Compiler._provided,
    FreshLayer: Compiler._fresh,
    SuspendedLayer: Compiler._suspended,
    TappedLayer: Compiler._tapped,
    SharedLayer: Compiler._shared,
    CaughtLayer: Compiler._caught,
    UnwrappedLayer: Compiler._unwrapped,
    ContainerLayer: Compiler._container,
}


def _twice(service: Any, first: Layer, second: Layer, layer: Layer) -> DuplicateServiceError:
    return DuplicateServiceError(
        f"{service_label(service)} is provided twice at once: at {first.declared_at} and at {second.declared_at}",
        origin=layer.declared_at,
        hint="keep one of them",
    )


def _pick(outputs: Outputs, parameter: Parameter | None) -> Provider:
    if parameter is not None and len(outputs) > 1:
        from agentlayers.layer.inspection import service_candidates

        for candidate in service_candidates(parameter.hint):
            if candidate in outputs:
                return outputs[candidate]
    return next(iter(outputs.values()))


def _pick_service(outputs: Outputs, service: Any) -> Provider:
    if service in outputs:
        return outputs[service]
    for offered, provider in outputs.items():
        if isinstance(offered, type) and isinstance(service, type) and service in offered.__mro__:
            return provider
    return next(iter(outputs.values()))
