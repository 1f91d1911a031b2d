"""
Compile the parts of a running app into plain functions.

dependency-injector resolves by walking its providers at every call; once everything that is opened is a value, an
expression such as ``Service(Repo(pool))`` can be written down once and called. What cannot be written so (an unusual
provider) is left to dependency-injector, with the same result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from dependency_injector import providers

from agentlayers.layer.plan import Part, Plan

__all__ = ["Cache", "Resolver"]

Cache = dict[int, Any]
"""What one request has made so far, by the number of the part."""

_NESTING_MAX: Final = 20
"""Calls written inside each other; Python's parser allows some two hundred brackets."""

_MISSING: Final = object()


class Resolver:
    """
    Functions from a request's cache to a part's value.

    Args:
        plan: The graph.
        constants: The value of each part that lives as long as the app.
        scoped: The parts of which each request has one.
        guard: Called with a scoped part that is opened rather than called, when nobody has opened it.
    """

    def __init__(
        self,
        plan: Plan,
        constants: Mapping[Part, Any],
        scoped: Collection[Part] = (),
        guard: Callable[[Part], Any] | None = None,
    ) -> None:
        self._plan, self._constants, self._scoped = plan, constants, frozenset(scoped)
        self._guard = guard
        self.numbers = {part: number for number, part in enumerate(plan.order)}
        self._names: dict[str, Any] = {"MISSING": _MISSING}
        self._functions: dict[Part, str] = {}
        self._statements: list[str] = []
        self._locals: dict[Part, str] = {}
        self._made: list[tuple[str, str]] = []
        self._lock = threading.RLock()
        self._openers: dict[Part, Callable[[Cache], Any]] = {}
        self._compiled: dict[Part, Callable[[Cache], Any]] = {}

    def function(self, part: Part) -> Callable[..., Any]:
        """Give the function that makes (or finds) a part; it takes a request's cache, if parts of it live in one."""
        found = self._compiled.get(part)
        if found is None:
            found = self._compiled[part] = self._build(f"get{self.numbers[part]}", part, self._expression)
        return found

    def opener(self, part: Part) -> Callable[[Cache], Any]:
        """Give the function that calls what a part is made by, whatever the cache holds of it."""
        found = self._openers.get(part)
        if found is None:
            found = self._openers[part] = self._build(f"open{self.numbers[part]}", part, self._made_by)
        return found

    def _build(self, name: str, part: Part, write: Callable[[Part, int], str]) -> Callable[..., Any]:
        with self._lock:  # the names of constants are counted, the statements collected
            self._define(name, part, write)
            made: Callable[..., Any] = self._names[name]
            return made

    def _define(self, name: str, part: Part, write: Callable[[Part, int], str]) -> None:
        """Write one function: a line for each part of the request, each made after those it needs."""
        outer = self._statements, self._locals, self._made
        self._statements, self._locals, self._made = [], {}, []
        try:
            result = write(part, 0)
            lines = [*self._statements, f"return {result}"]
            fresh = [line for made in self._made for line in made]
        finally:
            self._statements, self._locals, self._made = outer
        if part in self._scoped and write == self._expression:
            number = self.numbers[part]
            lines[:0] = [
                "if not cache:",  # the first look-up of a request, which is most often the only one
                *(f"    {line}" for line in fresh),
                f"    return {result}",
                f"value = cache.get({number}, MISSING)",
                "if value is not MISSING: return value",
            ]
        body = "".join(f"    {line}\n" for line in lines)
        exec(compile(f"def {name}(cache=None):\n{body}", f"<{name}>", "exec"), self._names)  # noqa: S102 - our own text

    # -- expressions ----------------------------------------------------------------------------------------------
    def _expression(self, part: Part, depth: int) -> str:
        if part in self._scoped:
            return self._local(part)
        if part in self._constants:
            return self._constant(self._constants[part])
        if depth >= _NESTING_MAX:
            return self._own_function(part)
        return self._call(part, depth)

    def _constant(self, value: Any) -> str:
        name = f"k{len(self._names)}"
        self._names[name] = value
        return name

    def _own_function(self, part: Part) -> str:
        name = self._functions.get(part)
        if name is None:
            name = self._functions[part] = f"deep{self.numbers[part]}"
            self._define(name, part, self._call)
        return f"{name}(cache)"

    def _local(self, part: Part) -> str:
        """Write the line that finds or makes a part of the request, and name its result."""
        name = self._locals.get(part)
        if name is None:
            number = self.numbers[part]
            made = self._call(part, 0)
            name = self._locals[part] = f"v{number}"
            self._statements.append(f"{name} = cache.get({number}, MISSING)")
            self._statements.append(f"if {name} is MISSING: {name} = cache[{number}] = {made}")
            self._made.append((f"{name} = {made}", f"cache[{number}] = {name}"))
        return name

    def _call(self, part: Part, depth: int) -> str:
        provider: Any = part.provider
        if part in self._scoped and isinstance(provider, providers.BaseResource) and self._guard is not None:
            guard, guarded = self._constant(self._guard), self._constant(part)
            return f"{guard}({guarded})"
        return self._made_by(part, depth)

    def _made_by(self, part: Part, depth: int) -> str:
        provider: Any = part.provider
        kind = type(provider)
        if kind in _CALLS and self._is_plain_call(provider):
            return f"{self._constant(provider.provides)}({self._arguments(part, depth)})"
        if kind is providers.Object:
            return self._constant(provider.provides)
        if kind is providers.List:
            return f"[{', '.join(self._given(part, provider.args, depth))}]"
        if kind is providers.ProvidedInstance:
            return self._given(part, [provider.provides], depth)[0]
        if kind is providers.AttributeGetter and str(provider.name).isidentifier():
            return f"{self._given(part, [provider.provides], depth)[0]}.{provider.name}"
        return f"{self._constant(provider)}()"

    def _is_plain_call(self, provider: Any) -> bool:
        return (
            not providers.is_provider(provider.provides)
            and not getattr(provider, "attributes", None)
            and all(name.isidentifier() for name in provider.kwargs)
        )

    def _arguments(self, part: Part, depth: int) -> str:
        provider: Any = part.provider
        names = [""] * len(provider.args) + [f"{name}=" for name in provider.kwargs]
        values = self._given(part, [*provider.args, *provider.kwargs.values()], depth)
        return ", ".join(f"{name}{value}" for name, value in zip(names, values, strict=True))

    def _given(self, part: Part, written: Sequence[Any], depth: int) -> list[str]:
        """Write the arguments of a part; the plan has them in the order in which the provider was written."""
        planned = [value for _label, value in part.arguments]
        return [
            self._expression(value, depth + 1)
            if isinstance(value, Part) and not providers.is_delegated(raw)
            else self._constant(raw)
            for raw, value in zip(written, planned, strict=False)
        ]


_CALLS: Final = frozenset(
    {
        providers.Factory,
        providers.Callable,
        providers.Singleton,
        providers.ThreadSafeSingleton,
        providers.Resource,
        providers.ContextLocalSingleton,
        providers.ContextLocalResource,
    }
)
