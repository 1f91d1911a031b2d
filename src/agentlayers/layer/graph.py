"""
The graph as data: to compare, to draw and to print.

Two graphs are equal when their nodes are: names, lifetimes, callables and arguments. Where a node was declared does not
count, so the same app written as layers, as a container or as YAML has one graph.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from dependency_injector import providers

from agentlayers.layer.app import App
from agentlayers.layer.blueprint import make_blueprint
from agentlayers.layer.inspection import qualified_name
from agentlayers.layer.origin import Origin
from agentlayers.layer.plan import Part, Plan
from agentlayers.layer.provider_walk import CALLING, effective
from agentlayers.layer.secret import MASK, is_secret, mask_text
from agentlayers.layer.text_form import text_of

__all__ = ["Graph", "Node", "Reference", "graph_of"]

_TRANSPARENT: Final = (
    providers.ConfigurationOption,
    providers.TypedConfigurationOption,
    providers.ProvidedInstance,
    providers.AttributeGetter,
    providers.ItemGetter,
    providers.MethodCaller,
    providers.List,
    providers.Dict,
    providers.Delegate,
)
"""Providers that are written inside an argument rather than drawn as nodes."""

_SHORT_CHARACTERS: Final = 4
"""A shorter value of a variable is recognised only where it is the whole text."""


@dataclass(frozen=True, slots=True)
class Reference:
    """
    An argument that is another node, or something taken from it: ``storage_config.directory``.
    """

    node: str
    path: str = ""

    def __str__(self) -> str:
        return f"{self.node}{self.path}"


@dataclass(frozen=True, slots=True)
class _Opaque:
    """A value that compares by its text, which nobody gets to see: it may hold anything."""

    kind: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Node:
    """
    One part of a graph.

    Attributes:
        name: Slot, or ``<owner>.<parameter>`` for what is written inside another part.
        kind: ``value, singleton, resource, factory, callable, configuration, ...``.
        callable: Qualified name of what makes it, or of a value's class.
        arguments: By parameter name: a :class:`Reference` or a literal.
        declared_at: Where it was written; not compared.
    """

    name: str
    kind: str
    callable: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    declared_at: Origin | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"<Node {self.name}: {_one_line(self)}>"


@dataclass(frozen=True, slots=True)
class Graph:
    """
    Nodes by name.

    Attributes:
        nodes: In the order of the container's slots, each followed by its private parts.
    """

    nodes: Mapping[str, Node]

    def __repr__(self) -> str:
        return f"<Graph of {', '.join(self.nodes)}>"

    def edges(self) -> Iterator[tuple[str, str, str]]:
        """Give ``(dependent, parameter, dependency)`` for every reference."""
        for node in self.nodes.values():
            for label, value in node.arguments.items():
                for reference in _references(value):
                    yield node.name, label, reference.node

    def masked(self, variables: Mapping[str, str] | None = None) -> Graph:
        """
        Take out what must not be shown; the writers show nothing else.

        Arguments whose names speak of a secret, passwords and tokens in addresses, and the insides of objects.

        Args:
            variables: Values to show as ``${NAME}``, by name, as they were filled into the YAML.
        """
        names = {value: name for name, value in (variables or {}).items() if value}
        nodes = {
            name: replace(
                node,
                arguments={label: _masked(label, value, names) for label, value in node.arguments.items()},
            )
            for name, node in self.nodes.items()
        }
        return Graph(nodes)

    def to_text(self) -> str:
        """Write one line per node, with its arguments below; secrets are masked."""
        lines: list[str] = []
        for node in self.nodes.values():
            lines.append(f"{node.name}: {node.kind} {node.callable}".rstrip())
            lines.extend(f"    {label} = {_shown(label, value)}" for label, value in node.arguments.items())
        return "\n".join(lines)

    def to_mermaid(self) -> str:
        """Write a Mermaid flowchart, dependents above what they need."""
        ids = {name: f"n{index}" for index, name in enumerate(self.nodes)}
        lines = ["flowchart TD"]
        for name, node in self.nodes.items():
            shape = ("([", "])") if node.kind == "resource" else ("[", "]")
            short = node.callable.rsplit(".", 1)[-1]
            lines.append(f'    {ids[name]}{shape[0]}"{name}<br/>{short or node.kind}"{shape[1]}')
        for dependent, label, dependency in self.edges():
            if dependency in ids:
                lines.append(f"    {ids[dependent]} -->|{label}| {ids[dependency]}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """Write the nodes as JSON; secrets are masked."""
        nodes = [
            {
                "name": node.name,
                "kind": node.kind,
                "callable": node.callable,
                "arguments": {label: _jsonable(_masked(label, value, {})) for label, value in node.arguments.items()},
                "declared_at": str(node.declared_at) if node.declared_at else None,
            }
            for node in self.nodes.values()
        ]
        return json.dumps({"nodes": nodes}, indent=2, ensure_ascii=False)

    def difference(self, other: Graph) -> str:
        """Say what differs, for tests; empty when equal."""
        lines: list[str] = []
        for name in {**self.nodes, **other.nodes}:
            mine, theirs = self.nodes.get(name), other.nodes.get(name)
            if mine != theirs:
                lines.append(f"{name}:\n  - {_one_line(mine)}\n  + {_one_line(theirs)}")
        return "\n".join(lines)


def graph_of(target: Any) -> Graph:
    """
    Read the graph of a layer, a container class or an app; nothing is opened.

    A graph that is wrong can still be drawn; :meth:`App.check` says what is wrong with it.
    """
    if isinstance(target, App):
        target = target.target
    blueprint = make_blueprint(target)
    plan = Plan(blueprint, blueprint.roots.values())
    return _draw(plan)


def _draw(plan: Plan) -> Graph:
    nodes: dict[str, Node] = {}
    for name, provider in plan.blueprint.roots.items():
        part = plan.parts[id(effective(provider))]
        if part.name == name:
            _draw_with_private(plan, part, nodes)
        else:
            nodes[name] = Node(
                name,
                "alias",
                "",
                {"of": Reference(part.name)},
                plan.blueprint.origin(name, provider),
            )
    for part in plan.parts.values():
        if not _is_transparent(plan, part):
            _draw_with_private(plan, part, nodes)
    return Graph(nodes)


def _draw_with_private(plan: Plan, part: Part, nodes: dict[str, Node]) -> None:
    stack = [part]
    while stack:
        current = stack.pop()
        if current.name not in nodes and not _is_transparent(plan, current):
            nodes[current.name] = _node(plan, current)
        inline = [child for child in current.children if child.parent is current and "." in child.name]
        stack.extend(reversed([child for child in inline if child.name not in nodes]))


def _is_transparent(plan: Plan, part: Part) -> bool:
    return isinstance(part.provider, _TRANSPARENT) or plan.is_written_inline(part)


def _node(plan: Plan, part: Part) -> Node:
    provider: Any = part.provider
    name = ""
    arguments: dict[str, Any] = {}
    if isinstance(provider, CALLING):
        make = provider.provides
        name = "" if make is None or providers.is_provider(make) else qualified_name(make)
    elif type(provider) is providers.Object:
        name = qualified_name(type(provider.provides))
        arguments["value"] = _literal(provider.provides)
    elif isinstance(provider, providers.Configuration):
        arguments = {key: _literal(value) for key, value in (provider() or {}).items()}
    for label, value in part.arguments:
        arguments[label] = _argument(plan, value)
    return Node(part.name, part.kind, name, dict(sorted(arguments.items())), part.origin)


def _argument(plan: Plan, value: Any) -> Any:
    if isinstance(value, Part):
        return _reference(plan, value.provider)
    if providers.is_provider(value):
        return _reference(plan, effective(value))
    return _literal(value)


def _reference(plan: Plan, provider: Any) -> Any:
    """Render a provider inside an argument: a reference with a path, or a structure of them."""
    provider = effective(provider)
    if isinstance(provider, providers.List):
        return [_argument(plan, item) for item in provider.args]
    if isinstance(provider, providers.Dict):
        return {str(key): _argument(plan, item) for key, item in provider.kwargs.items()}
    path = ""
    while True:
        step = _step(provider)
        if step is None:
            break
        provider, text = effective(step[0]), step[1]
        path = text + path
    part = plan.parts.get(id(provider))
    if part is not None and plan.is_written_inline(part) and not path:
        return _literal(provider.provides)
    return Reference(part.name if part is not None else "?", path)


def _step(provider: Any) -> tuple[Any, str] | None:
    if isinstance(provider, providers.TypedConfigurationOption):
        return provider.args[0], f" as {getattr(provider.provides, '__name__', 'value')}"
    if isinstance(provider, providers.ConfigurationOption):
        root = provider._get_root()
        return root, "".join(f".{segment}" for segment in provider.get_name_segments())
    if isinstance(provider, providers.AttributeGetter):
        return provider.provides, f".{provider.name}"
    if isinstance(provider, providers.ItemGetter):
        return provider.provides, f"[{provider.name!r}]"
    if isinstance(provider, providers.MethodCaller):
        return provider.provides, "()"
    if isinstance(provider, providers.ProvidedInstance):
        return provider.provides, ""
    if isinstance(provider, providers.Delegate):
        return provider.provides, ".provider"
    return None


def _literal(value: Any) -> Any:
    """Keep what compares by value, name what does not."""
    if value is None or isinstance(value, str | int | float | bool | bytes):
        return value
    if isinstance(value, Mapping):
        return {str(key): _literal(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_literal(item) for item in value]
    if isinstance(value, type) or callable(value):
        return f"<{qualified_name(value)}>"
    kind: Any = type(value)
    if kind.__repr__ is object.__repr__:
        return f"<{qualified_name(type(value))} object>"
    return value if kind.__eq__ is not object.__eq__ else _Opaque(qualified_name(kind), repr(value))


def _references(value: Any) -> Iterator[Reference]:
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _shown(label: str, value: Any) -> str:
    shown = _jsonable(_masked(label, value, {}))
    if isinstance(shown, Mapping) and "ref" in shown:
        return f"-> {shown['ref']}"
    return json.dumps(shown, ensure_ascii=False)


def _masked(label: str, value: Any, variables: Mapping[str, str]) -> Any:
    """Mask one argument, whose name counts for everything inside it."""
    if value is None or isinstance(value, Reference):
        return value
    if isinstance(value, Mapping):
        named = is_secret(label)
        return {key: _masked(label if named else key, item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(label, item, variables) for item in value]
    if value != "" and is_secret(label):
        return MASK
    if isinstance(value, str):
        return _masked_text(value, variables)
    if isinstance(value, int | float):
        known = variables.get(str(value)) if not isinstance(value, bool) else None
        return f"${{{known}}}" if known else value
    text = text_of(value)
    if text is not None:
        return _masked_text(text, variables)
    return f"<{value.kind if isinstance(value, _Opaque) else qualified_name(type(value))}>"


def _masked_text(text: str, variables: Mapping[str, str]) -> str:
    if text in variables:
        return f"${{{variables[text]}}}"
    for value in sorted(variables, key=len, reverse=True):
        if len(value) >= _SHORT_CHARACTERS:
            text = text.replace(value, f"${{{variables[value]}}}")
    return mask_text(text)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Reference):
        return {"ref": str(value)}
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    return value


def _one_line(node: Node | None) -> str:
    if node is None:
        return "(absent)"
    arguments = ", ".join(f"{label}={_shown(label, value)}" for label, value in node.arguments.items())
    return f"{node.kind} {node.callable}({arguments})"
