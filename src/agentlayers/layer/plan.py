"""
The graph of one blueprint: named nodes, true edges, and the order in which they can be built.

Edges run through factories, lists, attributes, configuration and overriding; a replaced part's own dependencies are not
among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dependency_injector import providers

from agentlayers.layer.blueprint import Blueprint
from agentlayers.layer.errors import CycleError, draw_path
from agentlayers.layer.inspection import describe_callable
from agentlayers.layer.naming import service_label
from agentlayers.layer.origin import Origin
from agentlayers.layer.provider_walk import (
    CALLING,
    Provider,
    effective,
    is_started,
    lifetime_of,
    parts_of,
)

__all__ = ["Part", "Plan"]


@dataclass(eq=False, slots=True)
class Part:
    """
    One node of the graph.

    Attributes:
        name: The slot, or ``<owner>.<parameter>`` for what is written inside another part.
        provider: The provider that answers, overriding followed.
        kind: How it lives: ``value, singleton, resource, factory, callable, configuration, ...``.
        arguments: What it is made of: parts, providers not visited, or literals.
        needs: The started parts that have to be there before this one is made.
    """

    name: str
    provider: Any
    kind: str
    arguments: list[tuple[str, Any]] = field(default_factory=list)
    needs: tuple[Part, ...] = ()
    parent: Part | None = None
    blueprint: Blueprint | None = None

    @property
    def origin(self) -> Origin | None:
        """Where it was declared; looked up when an error or a drawing asks, since sources have to be read for it."""
        return None if self.blueprint is None else self.blueprint.origin(self.name, self.provider)

    @property
    def is_started(self) -> bool:
        """Whether it is built or opened once at start."""
        return is_started(self.provider)

    @property
    def children(self) -> Iterator[Part]:
        """The parts it is made of."""
        return (value for _label, value in self.arguments if isinstance(value, Part))

    def describe(self) -> str:
        """Name it with its callable, as paths are drawn."""
        if isinstance(self.provider, CALLING) and not providers.is_provider(self.provider.provides):
            return f"{self.name} ({describe_callable(self.provider.provides)})"
        return self.name

    def path(self) -> list[str]:
        """List the steps from what was asked for down to here."""
        steps: list[str] = []
        part: Part | None = self
        while part is not None:
            steps.append(part.describe())
            part = part.parent
        return steps[::-1]


class Plan:
    """
    Nodes reachable from the wanted providers.

    Args:
        blueprint: What to plan.
        wanted: Where to start; every root when left out.
    """

    def __init__(self, blueprint: Blueprint, wanted: Iterable[Provider] | None = None) -> None:
        self.blueprint = blueprint
        self.parts: dict[int, Part] = {}
        self.order: list[Part] = []
        self.problems: list[CycleError] = []
        roots = [effective(p) for p in (blueprint.roots.values() if wanted is None else wanted)]
        self.wanted = list(dict.fromkeys(roots))
        self._slots: dict[int, str] = {}
        for name, provider in blueprint.roots.items():
            self._slots.setdefault(id(effective(provider)), name)
        for provider in self.wanted:
            self._visit(provider)
        self._name_inline()
        self._collect_needs()
        self._ends: dict[int, Part] = {}
        for provider in (*blueprint.roots.values(), *blueprint.outputs.values()):
            part = self.parts.get(id(effective(provider)))
            if part is not None:
                self._ends[id(provider)] = part

    @property
    def named(self) -> dict[str, Provider]:
        """Every part's provider by name."""
        return {part.name: part.provider for part in self.order}

    def part_of(self, provider: Provider) -> Part | None:
        """Find the node of a root or output, as overriding stood when the plan was made."""
        return self._ends.get(id(provider))

    def is_written_inline(self, part: Part) -> bool:
        """Tell whether a part is a plain value inside an argument, which needs no node of its own."""
        key = id(part.provider)
        return part.kind == "value" and key not in self._slots and key not in self.blueprint.compiler.hints

    # -- discovery ---------------------------------------------------------------------------------
    def _visit(self, root: Provider) -> None:
        if id(root) in self.parts:
            return
        stack = [self._open(root, None)]
        on_path = {id(root)}
        while stack:
            part, pending = stack[-1]
            step = next(pending, None)
            if step is None:
                stack.pop()
                on_path.discard(id(part.provider))
                self.order.append(part)
                continue
            label, child = step
            known = self.parts.get(id(child))
            if known is None:
                entry = self._open(child, part)
                on_path.add(id(child))
                part.arguments.append((label, entry[0]))
                stack.append(entry)
            elif id(child) in on_path:
                self._cycle([entry[0] for entry in stack], known)
            else:
                part.arguments.append((label, known))

    def _open(self, provider: Provider, parent: Part | None) -> tuple[Part, Iterator[tuple[str, Provider]]]:
        part = Part(
            self._slots.get(id(provider), ""), provider, lifetime_of(provider), parent=parent, blueprint=self.blueprint
        )
        self.parts[id(provider)] = part
        return part, self._children(part)

    def _children(self, part: Part) -> Iterator[tuple[str, Provider]]:
        for label, value in parts_of(part.provider):
            if providers.is_provider(value):
                yield label, effective(value)
            else:
                part.arguments.append((label, value))

    def _cycle(self, path: Sequence[Part], back_to: Part) -> None:
        self._name_inline()
        start = next(index for index, part in enumerate(path) if part is back_to)
        circle = [part for part in path[start:] if part.kind not in {"option", "providedinstance"}]
        steps = [part.describe() or part.kind for part in circle]
        self.problems.append(
            CycleError(
                f"{circle[0].name} needs itself: {' -> '.join([*(p.name for p in circle), circle[0].name])}",
                origin=self.blueprint.origin(circle[0].name, circle[0].provider),
                drawing=draw_path(steps, f"{steps[0]}  <- the circle closes here"),
                hint="give one of them a default, or pass a provider (part.provider) and call it later",
            )
        )

    # -- names -------------------------------------------------------------------------------------
    def _name_inline(self) -> None:
        """Name what has no slot after the part and parameter it was first met in."""
        hints = self.blueprint.compiler.hints
        taken = {part.name for part in self.parts.values()}
        for part in list(self.parts.values()):  # in order of discovery: owners before what they own
            if part.name:
                continue
            hint = hints.get(id(part.provider))
            owner = part.parent
            if hint and hint not in taken:
                part.name = hint
            elif owner is None:
                part.name = _free(service_label(part.kind), taken)
            else:
                part.name = _free(f"{owner.name}.{_label_of(owner, part)}", taken)
            taken.add(part.name)

    # -- edges -------------------------------------------------------------------------------------
    def _collect_needs(self) -> None:
        """Gather for each part the started parts it waits for, through the parts in between."""
        reach: dict[int, dict[int, Part]] = {}
        for part in self.order:
            found: dict[int, Part] = {}
            for child in part.children:
                if child.is_started:
                    found[id(child)] = child
                else:
                    found.update(reach.get(id(child), {}))
            reach[id(part)] = found
            part.needs = tuple(found.values())


def _label_of(owner: Part, part: Part) -> str:
    for label, value in parts_of(owner.provider):
        if providers.is_provider(value) and effective(value) is part.provider:
            return label.lstrip("@")
    return "part"


def _free(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate
