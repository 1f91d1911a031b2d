"""
Check a planned graph before anything is opened, and say everything that is wrong at once.

Doubt never counts as an error: what annotations do not say is not checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dependency_injector import providers

from agentlayers.errors import LayerError
from agentlayers.layer.blueprint import Blueprint
from agentlayers.layer.errors import (
    AmbiguousServiceError,
    LayerValidationError,
    LifetimeLeakError,
    MissingServiceError,
    SignatureError,
    TypeMismatchError,
    UnusedOverrideError,
    draw_path,
    suggestion,
)
from agentlayers.layer.inspection import (
    Parameter,
    describe_callable,
    is_instance,
    parameters_of,
    service_candidates,
    type_accepts,
)
from agentlayers.layer.naming import service_label
from agentlayers.layer.plan import Part, Plan
from agentlayers.layer.provider_walk import CALLING
from agentlayers.layer.slot import service_of
from agentlayers.layer.wiring import is_service_type

__all__ = ["check"]


def check(plan: Plan) -> None:
    """
    Check everything.

    Raises:
        LayerValidationError: With all problems found.
    """
    blueprint = plan.blueprint
    problems: list[LayerError] = [*blueprint.problems, *plan.problems]
    checker = _Checker(blueprint)
    for part in plan.order:
        problems.extend(checker.check(part))
    if blueprint.compiler.checked:
        guarded = Plan(blueprint, blueprint.compiler.checked)
        for part in guarded.order:
            if id(part.provider) not in plan.parts:
                problems.extend(checker.check(part))
    problems.extend(_unused_overrides(plan))
    if problems:
        raise LayerValidationError(problems, what=blueprint.label)


def _unused_overrides(plan: Plan) -> Iterator[LayerError]:
    for key, (name, override) in plan.blueprint.overridden.items():
        if key not in plan.parts:
            yield UnusedOverrideError(
                f"the override of {name} is not used: nothing that was asked for depends on it",
                origin=override.origin,
            )


class _Checker:
    def __init__(self, blueprint: Blueprint) -> None:
        self.blueprint = blueprint
        self.known = {
            getattr(service, "__name__", ""): service
            for service in [*blueprint.services.values(), *blueprint.compiler.services.values()]
            if service is not None
        }

    def check(self, part: Part) -> Iterator[LayerError]:
        provider = part.provider
        yield from self._slot_type(part)
        if isinstance(provider, providers.Dependency):
            yield self._undefined(part)
        elif isinstance(provider, CALLING) and not isinstance(provider, providers.TypedConfigurationOption):
            make: Any = provider.provides
            if make is not None and not providers.is_provider(make):
                yield from self._arguments(part, make)
        if part.kind in {"singleton", "resource"}:
            yield from self._leaks(part)

    # -- what a slot holds -------------------------------------------------------------------------
    def _slot_type(self, part: Part) -> Iterator[LayerError]:
        promised = self.blueprint.services.get(part.name)
        if promised is None or id(part.provider) in self.blueprint.overridden:
            return
        if type(part.provider) is providers.Object:
            fits = is_instance(part.provider.provides, promised)
            held = type(part.provider.provides).__name__
        else:
            offered = service_of(part.provider)
            fits, held = type_accepts(promised, offered), service_label(offered)
        if not fits:
            yield TypeMismatchError(
                f"{part.name} promises a {service_label(promised)} and holds a {held}",
                origin=part.origin,
            )

    def _undefined(self, part: Part) -> LayerError:
        service = part.provider.instance_of
        what = f"a {service_label(service)}" if service is not object else "a value"
        return MissingServiceError(
            f"{part.name} is not defined: nothing offers {what}",
            drawing=draw_path([*part.path()[:-1]], f"{part.name}: {service_label(service)}  ???"),
            origin=part.origin,
            hint=f"give the slot: {part.name}=..., or .provide() a layer of {service_label(service)}",
        )

    # -- arguments ---------------------------------------------------------------------------------
    def _arguments(self, part: Part, make: Any) -> Iterator[LayerError]:
        parameters = parameters_of(make, self.known)
        if parameters is None:
            return
        by_name = {parameter.name: parameter for parameter in parameters if not parameter.is_variadic}
        open_ended = any(p.kind is p.kind.VAR_KEYWORD for p in parameters if p.kind is not None)
        given = {label for label, _value in part.arguments if not label.startswith("@")}
        given.update(part.provider.kwargs)  # also what closes a circle, which the plan leaves out of the arguments
        given.update(self._undecided(part, make))
        for name in part.provider.kwargs:
            if name not in by_name and not open_ended:
                yield SignatureError(
                    f"{part.name}: {describe_callable(make)} takes no argument {name!r}{suggestion(name, by_name)}",
                    origin=part.origin,
                )
        yield from self._too_many(part, make, parameters)
        for name, parameter in by_name.items():
            if parameter.required and name not in given:
                yield self._missing(part, make, parameter)
        for label, value in part.arguments:
            if label in by_name:
                yield from self._argument_type(part, make, by_name[label], value)

    def _undecided(self, part: Part, make: Any) -> Iterator[str]:
        """Name the parameters that are reported already because several parts fit."""
        begin = f"{part.name}: {describe_callable(make)}("
        for problem in self.blueprint.problems:
            if isinstance(problem, AmbiguousServiceError) and problem.summary.startswith(begin):
                yield problem.summary.removeprefix(begin).partition(":")[0]

    def _too_many(self, part: Part, make: Any, parameters: tuple[Parameter, ...]) -> Iterator[LayerError]:
        positional = [p for p in parameters if p.kind in {p.kind.POSITIONAL_ONLY, p.kind.POSITIONAL_OR_KEYWORD}]
        if any(p.kind is p.kind.VAR_POSITIONAL for p in parameters):
            return
        if len(part.provider.args) > len(positional):
            yield SignatureError(
                f"{part.name}: {describe_callable(make)} takes {len(positional)} positional arguments, "
                f"{len(part.provider.args)} are given",
                origin=part.origin,
            )

    def _missing(self, part: Part, make: Any, parameter: Parameter) -> LayerError:
        candidates = [c for c in service_candidates(parameter.hint) if is_service_type(c)]
        asked = parameter.annotation or "no annotation"
        drawing = draw_path(part.path(), f"{parameter.name}: {asked}  ???")
        if candidates:
            service = service_label(candidates[0])
            near = [service_label(s) for s in self.blueprint.services.values() if s is not None]
            return MissingServiceError(
                f"{part.name}: nothing offers {service}, which {describe_callable(make)} needs as {parameter.name!r}"
                f"{suggestion(service, near) if near else ''}",
                origin=part.origin,
                drawing=drawing,
                hint=f".provide() a layer of {service}, or give {parameter.name}=...",
            )
        return SignatureError(
            f"{part.name}: {describe_callable(make)} needs {parameter.name!r} ({asked}) and nothing is given",
            origin=part.origin,
            drawing=drawing,
            hint=f"give {parameter.name}=...",
        )

    def _argument_type(self, part: Part, make: Any, parameter: Parameter, value: Any) -> Iterator[LayerError]:
        if isinstance(value, Part):
            provider = value.provider
            if id(provider) in self.blueprint.overridden:
                return  # checked where it was put in
            if type(provider) is providers.Object:
                fits, what = (
                    is_instance(provider.provides, parameter.hint),
                    type(provider.provides).__name__,
                )
            else:
                offered = service_of(provider)
                fits, what = type_accepts(parameter.hint, offered), service_label(offered)
            source = f" (from {value.name})"
        else:
            fits, what, source = is_instance(value, parameter.hint), type(value).__name__, ""
        if not fits:
            yield TypeMismatchError(
                f"{part.name}: {describe_callable(make)} takes {parameter.name}: {parameter.annotation}, "
                f"and is given a {what}{source}",
                origin=part.origin,
            )

    # -- lifetimes ---------------------------------------------------------------------------------
    def _leaks(self, part: Part) -> Iterator[LayerError]:
        stack = [(child, [child]) for child in part.children]
        seen: set[int] = set()
        while stack:
            child, path = stack.pop()
            if id(child) in seen or child.is_started or _passed_as_provider(child):
                continue
            seen.add(id(child))
            if child.kind == "request":
                yield LifetimeLeakError(
                    f"{part.name} lives as long as the app and would keep {child.name}, which lives for one request",
                    origin=part.origin,
                    drawing=draw_path([*part.path(), *(p.describe() for p in path)]),
                    hint=f"pass {child.name}.provider and call it inside the request, or make {part.name} a factory",
                )
            stack.extend((grandchild, [*path, grandchild]) for grandchild in child.children)


def _passed_as_provider(part: Part) -> bool:
    return isinstance(part.provider, providers.Delegate) or providers.is_delegated(part.provider)
