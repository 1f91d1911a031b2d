"""What ``check``, ``graph`` and ``schema`` read: presets, YAML files, and containers of the user's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlayers.errors import SettingsError

if TYPE_CHECKING:
    from agentlayers.layer import LayerContainer

__all__ = [
    "ALLOW_IMPORTS_HELP",
    "CONTAINER_HELP",
    "Loaded",
    "Variables",
    "container_named",
    "import_named",
    "load_source",
]

CONTAINER_HELP = (
    "What the file fills, unless it says so itself: agent_runtime, server, or package.module:Class of your own, "
    "which is imported. (agent_runtime)"
)

ALLOW_IMPORTS_HELP = (
    "A package whose classes the file may name as package.module:Class; what it names is imported. May be repeated."
)

_CONTAINER = "--container"

PLACEHOLDER = "49151"
"""Stands for a variable that is not set where a number may be wanted; read as a text it is one, too."""


@dataclass
class Variables(Mapping[str, str]):
    """
    The environment as a file sees it, remembering what was asked for.

    Attributes:
        fill: Given for variables that the process does not have.
        used: Name and value of every variable that was read.
    """

    fill: Mapping[str, str] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        value = os.environ.get(name) or self.fill.get(name, "")
        if not value:
            self.used.setdefault(name, "")
            raise KeyError(name)
        self.used[name] = value
        return value

    def __iter__(self) -> Iterator[str]:
        return iter({**self.fill, **os.environ})

    def __len__(self) -> int:
        return len({**self.fill, **os.environ})


@dataclass
class Loaded:
    """
    One source, read.

    Attributes:
        container: What to check or draw.
        variables: Those the files asked for.
        unset: Variables that are not set and have no default, filled with something.
    """

    container: type[LayerContainer]
    variables: Variables
    unset: tuple[str, ...] = ()


def built_in_containers() -> dict[str, type[LayerContainer]]:
    """Give the containers a file may name."""
    from agentlayers.runtime.containers import AgentRuntimeContainer
    from agentlayers.server import ServerContainer

    return {"agent_runtime": AgentRuntimeContainer, "server": ServerContainer}


def container_named(name: str | None) -> type[LayerContainer]:
    """
    Find a container by its short name, or import ``package.module:Class``.

    Raises:
        SettingsError: There is none, or its module cannot be imported.
    """
    from agentlayers.layer import LayerContainer

    known = built_in_containers()
    if name is None or name in known:
        return known[name or "agent_runtime"]
    expected = f"{', '.join(known)}, or package.module:Class"
    module_name, found = import_named(name, setting=_CONTAINER, expected=expected)
    if not (isinstance(found, type) and issubclass(found, LayerContainer)):
        what = "has no such name" if found is None else "has something else under that name"
        raise _refused(
            _CONTAINER, name, f"a subclass of agentlayers.layer.LayerContainer (module {module_name} {what})"
        )
    return found


def import_named(name: str, *, setting: str, expected: str = "package.module:Class") -> tuple[str, Any]:
    """
    Import what the operator calls ``package.module:Class``; :obj:`None` if the module has no such name.

    Args:
        name: As it was given.
        setting: Where.
        expected: What would be right.

    Returns:
        The module's name, and what was found.

    Raises:
        SettingsError: It is no such name, or its module cannot be imported.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise _refused(setting, name, expected)
    found: Any = _import(setting, name, module_name)
    for step in attribute.split("."):
        found = getattr(found, step, None)
    return module_name, found


def _import(setting: str, name: str, module: str) -> Any:
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)  # as `python -m` does: the operator's own project
    try:
        return import_module(module)
    except Exception as error:
        reason = f"a module that can be imported ({type(error).__name__}: {error})"
        raise _refused(setting, name, reason) from error


def _refused(setting: str, name: str, expected: str) -> SettingsError:
    return SettingsError(setting=setting, value=name, expected=expected)


def load_source(
    source: str, container: type[LayerContainer], *, fill: bool, allow_imports: Sequence[str] = ()
) -> Loaded:
    """
    Read a preset or file.

    Args:
        source: Name or path.
        container: What it fills when it does not say so.
        fill: Let a variable that is not set and has no default stand for itself, instead of refusing it.
        allow_imports: Packages the file may import from.

    Raises:
        LayerValidationError: All that is wrong in it.
        PresetNotFoundError: Neither a file nor a preset has that name.
    """
    from agentlayers.layer import load_layers
    from agentlayers.layer.errors import LayerValidationError

    def load(variables: Variables, *unset: str) -> Loaded:
        made = load_layers(
            Path(source) if is_path(source) else source,
            container=container,
            containers=built_in_containers(),
            environment=variables,
            allow_imports=allow_imports,
        )
        return Loaded(made, variables, unset)

    variables = Variables()
    try:
        return load(variables)
    except LayerValidationError as error:
        unset = [name for name, value in variables.used.items() if not value and _is_asked_for(name, error)]
        if not fill or not unset:
            raise
    themselves = {name: f"${{{name}}}" for name in unset}
    try:
        return load(Variables(themselves), *unset)
    except LayerValidationError as error:  # some of them have to be numbers
        numbers = [name for name, shown in themselves.items() if any(shown in str(one) for one in error.problems)]
        return load(Variables({**themselves, **dict.fromkeys(numbers or unset, PLACEHOLDER)}), *unset)


def is_path(source: str) -> bool:
    """Tell a path from the name of a preset."""
    return Path(source).suffix in {".yaml", ".yml"} or len(Path(source).parts) > 1


def _is_asked_for(name: str, error: Any) -> bool:
    return any(f"environment variable {name} is not set" in str(problem) for problem in error.problems)
