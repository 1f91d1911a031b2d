"""
Read YAML into a small tree that remembers lines and columns.

Only plain data comes through: no tags, no duplicate keys, and what aliases and merge keys expand to is bounded.
``${NAME}`` is filled in after parsing, inside scalars, so a value from the environment can never add a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import yaml
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.resolver import Resolver

from agentlayers.errors import LayerError
from agentlayers.layer.errors import LayerSchemaError
from agentlayers.layer.origin import Origin

__all__ = ["Map", "Scalar", "Sequence", "Tree", "TreeReader", "plain"]

TEXT_CHARACTERS_MAX: Final = 1024 * 1024
"""A file of layers is a page or two; what is larger is not one."""

NODES_MAX: Final = 10_000
"""Values in one file once aliases are expanded; nested aliases would double at every step."""

DEPTH_MAX: Final = 64
"""Nesting of values."""

_VARIABLE: Final = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")
_PREFIX: Final = "tag:yaml.org,2002:"
_SCALARS: Final = frozenset({"null", "bool", "int", "float", "str"})
_TAG: Final = "the tag {!r} is not allowed; layers are plain data"


@dataclass(frozen=True, slots=True)
class Scalar:
    """
    One value.

    Attributes:
        value: As YAML reads it, variables filled in.
        text: As text, variables filled in.
        origin: Its place.
        shown: As written in the file: for errors, since a filled-in variable may be a secret.
        from_environment: Whether a variable was filled in.
    """

    value: Any
    text: str
    origin: Origin
    shown: str
    from_environment: bool = False


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple[Tree, ...]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Map:
    """A mapping with text keys, and the place of each key."""

    entries: Mapping[str, Tree]
    keys: Mapping[str, Origin]
    origin: Origin


Tree: TypeAlias = Scalar | Sequence | Map


def plain(tree: Tree) -> Any:
    """Turn a tree into plain lists, dictionaries and values."""
    if isinstance(tree, Scalar):
        return tree.value
    if isinstance(tree, Sequence):
        return [plain(item) for item in tree.items]
    return {key: plain(value) for key, value in tree.entries.items()}


@dataclass(slots=True)
class TreeReader:
    """
    Reads one text.

    Attributes:
        file: Its name in errors.
        environment: Where variables come from.
        problems: What was wrong; reading goes on behind each.
        unfilled: Where a variable could not be filled in, so that whatever else is wrong there is no news.
    """

    file: str
    environment: Mapping[str, str]
    problems: list[LayerError] = field(default_factory=list)
    unfilled: set[Origin] = field(default_factory=set)
    _count: int = 0

    def read(self, text: str) -> Tree | None:
        """Read the one document of a text; None when it is empty or no YAML at all."""
        if len(text) > TEXT_CHARACTERS_MAX:
            self._report(Origin(self.file), f"more than {TEXT_CHARACTERS_MAX} characters")
            return None
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark: Any = error.problem_mark or error.context_mark
            origin = self._origin(mark) if mark else Origin(self.file)
            lines = text.splitlines()
            near = lines[mark.line] if mark and mark.line < len(lines) else ""
            hint = 'inside { } a variable needs quotes: "${NAME}"' if "${" in near else ""
            self._report(origin, f"not YAML: {error.problem or error.context}", hint)
            return None
        except (yaml.YAMLError, RecursionError) as error:
            self._report(Origin(self.file), f"not YAML: {type(error).__name__}")
            return None
        return None if node is None else self._tree(node, 0)

    def _tree(self, node: Node, depth: int) -> Tree | None:
        self._count += 1
        if self._count > NODES_MAX or depth > DEPTH_MAX:
            if self._count <= NODES_MAX + 1 or depth == DEPTH_MAX + 1:
                self._report(
                    self._origin(node.start_mark),
                    f"more than {NODES_MAX} values or {DEPTH_MAX} levels once aliases are expanded",
                )
            self._count = NODES_MAX + 1
            return None
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        if node.tag.removeprefix(_PREFIX) not in {"seq", "map"}:
            self._report(self._origin(node.start_mark), _TAG.format(node.tag))
            return None
        if isinstance(node, SequenceNode):
            items = [self._tree(item, depth + 1) for item in node.value]
            return Sequence(tuple(item for item in items if item is not None), self._origin(node.start_mark))
        return self._map(node, depth)

    # -- mappings -----------------------------------------------------------------------------------------
    def _map(self, node: Any, depth: int) -> Map:
        entries: dict[str, Tree] = {}
        keys: dict[str, Origin] = {}
        merged: list[Node] = []
        for key_node, value_node in node.value:
            origin = self._origin(key_node.start_mark)
            if key_node.tag == f"{_PREFIX}merge":
                merged.extend(value_node.value if isinstance(value_node, SequenceNode) else [value_node])
                continue
            if not isinstance(key_node, ScalarNode):
                self._report(origin, "a key has to be a text")
                continue
            key = key_node.value
            if key in keys:
                self._report(origin, f"the key {key!r} is there twice, first at line {keys[key].line}")
                continue
            keys[key] = origin
            value = self._tree(value_node, depth + 1)
            if value is not None:
                entries[key] = value
        for other in merged:
            self._merge(other, entries, keys, depth)
        return Map(entries, keys, self._origin(node.start_mark))

    def _merge(self, node: Node, entries: dict[str, Tree], keys: dict[str, Origin], depth: int) -> None:
        if not isinstance(node, MappingNode):
            self._report(self._origin(node.start_mark), "what is merged with << has to be a mapping")
            return
        tree = self._tree(node, depth + 1)
        if isinstance(tree, Map):
            for key, value in tree.entries.items():
                if key not in keys:
                    keys[key] = tree.keys[key]
                    entries[key] = value

    # -- scalars ------------------------------------------------------------------------------------------
    def _scalar(self, node: Any) -> Scalar | None:
        origin = self._origin(node.start_mark)
        kind = node.tag.removeprefix(_PREFIX)
        if kind not in _SCALARS and kind != "timestamp":
            self._report(origin, _TAG.format(node.tag))
            return None
        if "$" in node.value:
            return self._interpolated(node, origin)
        if kind in {"str", "timestamp"}:
            return Scalar(node.value, node.value, origin, node.value)
        return Scalar(_constructed(node), node.value, origin, node.value)

    def _interpolated(self, node: Any, origin: Origin) -> Scalar:
        used = False

        def fill(match: re.Match[str]) -> str:
            nonlocal used
            if match[0] == "$$":
                return "$"
            name, default = match["name"], match["default"]
            if name is None:
                self.unfilled.add(origin)
                self._report(origin, f"{node.value!r} has an unclosed or misnamed variable; write ${{NAME}}")
                return ""
            used = True
            value = self.environment.get(name)
            if value:
                return value
            if default is not None:
                return default
            self.unfilled.add(origin)
            self._report(
                origin,
                f"the environment variable {name} is not set",
                f"set it, or give a default: ${{{name}:-default}}",
            )
            return ""

        text = _VARIABLE.sub(fill, node.value)
        value: Any = text
        if node.style is None:  # unquoted: a number stays a number
            tag: str = Resolver().resolve(ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
            if tag.removeprefix(_PREFIX) in _SCALARS - {"str"} and text != "":
                value = _constructed(ScalarNode(tag, text))
        return Scalar(value, text, origin, node.value, used)

    # -- places -------------------------------------------------------------------------------------------
    def _origin(self, mark: Any) -> Origin:
        return Origin(self.file, mark.line + 1, mark.column + 1)

    def _report(self, origin: Origin, summary: str, hint: str = "") -> None:
        self.problems.append(LayerSchemaError(summary, origin=origin, hint=hint))


def _constructed(node: ScalarNode) -> Any:
    try:
        return SafeConstructor().construct_object(node)
    except (ConstructorError, ValueError):
        return node.value
