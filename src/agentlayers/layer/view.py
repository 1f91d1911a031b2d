"""
What a running app looks like from one place: its parts, their values, and how the rest is made.

An app has one view; an override after the start, or a refresh, makes another that shares every value it does not touch.
Views are private copies of the graph, so nothing is ever overridden for anybody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from dependency_injector import providers

from agentlayers.layer.blueprint import make_blueprint
from agentlayers.layer.errors import ServiceNotFoundError
from agentlayers.layer.naming import service_label
from agentlayers.layer.override import Override
from agentlayers.layer.plan import Part, Plan
from agentlayers.layer.provider_walk import Provider
from agentlayers.layer.resolver import Resolver
from agentlayers.layer.validation import check

__all__ = ["View", "plan_view"]

_MISSING: Final = object()


class View:
    """
    A planned graph with the values of its started parts.

    Attributes:
        plan: The graph.
        wanted: What was asked for.
        overrides: What was replaced in it.
        ready: Values by what they can be asked for.
        makers: Functions by what they can be asked for, for what is made at every call.
        values: By part name, for those that were built here or taken over from another view.
        scope_plan: What the request scopes of this view share, once there was one.
        active: The scopes that are working with it.
        idle: Done as soon as no scope works with it, if somebody waits for that.
    """

    def __init__(self, plan: Plan, wanted: Sequence[Any], overrides: tuple[Override, ...] = ()) -> None:
        self.plan, self.wanted, self.overrides = plan, wanted, overrides
        self.values: dict[str, Any] = {}
        self.active: set[Any] = set()
        self.scope_plan: Any = None
        self.idle: asyncio.Future[None] | None = None
        self.request_parts = [part for part in plan.order if part.kind == "request"]
        self._constants: dict[Part, Any] = {}
        self.ready: dict[Any, Any] = {}
        self.makers: dict[Any, Callable[[], Any]] = {}
        self._resolver: Resolver | None = None
        for part in plan.order:
            if part.kind != "coroutine":
                part.provider.disable_async_mode()  # nothing is ever a Future here

    def bind(self, part: Part, value: Any) -> None:
        """Let a part stand for a value that was built."""
        self.values[part.name] = value
        self._constants[part] = value
        part.provider.override(providers.Object(value))

    def finish(self) -> None:
        """Prepare the look-ups once all is built, so that the common ones are one dictionary access."""
        blueprint = self.plan.blueprint
        self.ready.clear()
        for key, provider in [*blueprint.roots.items(), *blueprint.outputs.items()]:
            part = self.plan.part_of(provider)
            if part in self._constants:
                self.ready[key] = self._constants[part]
            elif part is not None and part.kind == "value":
                self.ready[key] = part.provider.provides

    def get(self, key: Any) -> Any:
        """Give a service or part; a factory makes a new one."""
        value = self.ready.get(key, _MISSING)
        return self._maker(key)() if value is _MISSING else value

    def left(self) -> None:
        """Wake whoever waits for the last scope to end; scopes may end in any thread."""
        idle = self.idle
        if idle is not None and not self.active:
            idle.get_loop().call_soon_threadsafe(_set, idle)

    def plan_scopes(self, make: Callable[[View, View, list[Part]], Any]) -> Any:
        """Prepare the request scopes of this view, once."""
        self.scope_plan = make(self, self, self.request_parts)
        return self.scope_plan

    async def wait_idle(self) -> None:
        """Wait until no scope works with the view."""
        self.idle = asyncio.get_running_loop().create_future()
        if self.active:
            await self.idle

    def forget(self) -> None:
        """Let go of all values."""
        self.values.clear()
        self._constants.clear()
        self.ready.clear()
        self.makers.clear()
        self._resolver = None

    @property
    def resolver(self) -> Resolver:
        """The compiled functions of this view."""
        if self._resolver is None:
            self._resolver = Resolver(self.plan, self._constants)
        return self._resolver

    @property
    def constants(self) -> dict[Part, Any]:
        """The values by part."""
        return self._constants

    def part(self, key: Any) -> Part:
        """
        Find a part that was asked for, or that something asked for needs.

        Raises:
            ServiceNotFoundError: There is no such part, or nothing asked for needs it.
        """
        part = self.plan.part_of(self.plan.blueprint.find(key))
        if part is not None:
            return part
        label = service_label(key)
        wanted = ", ".join(service_label(w) for w in self.wanted)
        message = f"{label} was not started: {wanted or 'what was asked for'} does not need it"
        raise ServiceNotFoundError(message, hint=f"ask for it as well: App(..., {label})")

    def _maker(self, key: Any) -> Callable[[], Any]:
        found = self.makers.get(key)
        if found is None:
            part = self.part(key)
            if part.kind == "request" or self._needs_request(part):
                found = part.provider  # bound to the scope of whoever calls
            else:
                found = self.resolver.function(part)
            self.makers[key] = found
        return found

    def _needs_request(self, part: Part) -> bool:
        stack, seen = [part], {id(part)}
        while stack:
            for child in stack.pop().children:
                if child.kind == "request":
                    return True
                if id(child) not in seen and not child.is_started:
                    seen.add(id(child))
                    stack.append(child)
        return False

    # -- other views --------------------------------------------------------------------------------------------
    def take_over(self, other: View, changed: Collection[str]) -> list[Part]:
        """
        Share the values of another view.

        Args:
            other: Where values come from.
            changed: Names of parts to build anew, with everything that depends on them.

        Returns:
            The parts that have to be built here, in dependency order.
        """
        known = {part.name: part for part in other.plan.order}
        present = {id(override) for _name, override in other.plan.blueprint.overridden.values()}
        touched: set[Part] = set()
        to_build: list[Part] = []
        for part in self.plan.order:
            before = known.get(part.name)
            is_new = part.name in changed or self._is_newly_overridden(part, present)
            if is_new or before is None or before.kind != part.kind or any(c in touched for c in part.children):
                touched.add(part)
            if not part.is_started:
                continue
            if part not in touched and part.name in other.values:
                self.bind(part, other.values[part.name])
            else:
                touched.add(part)
                to_build.append(part)
        return to_build

    def _is_newly_overridden(self, part: Part, present: Collection[int]) -> bool:
        _name, override = self.plan.blueprint.overridden.get(id(part.provider), ("", None))
        return override is not None and id(override) not in present


def _set(idle: asyncio.Future[None]) -> None:
    if not idle.done():
        idle.set_result(None)


def plan_view(target: Any, wanted: Sequence[Any], overrides: tuple[Override, ...]) -> View:
    """
    Put a graph together and check it.

    Raises:
        LayerValidationError: With everything that is wrong.
    """
    blueprint = make_blueprint(target)
    if overrides:
        blueprint.apply(overrides, Plan(blueprint).named)
    found: list[Provider] = [blueprint.find(key) for key in wanted] or blueprint.wanted
    plan = Plan(blueprint, found)
    check(plan)
    return View(plan, wanted, overrides)
