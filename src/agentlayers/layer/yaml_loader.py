"""
Turn YAML files into container classes.

Each file becomes a subclass of what it extends, so an overlay rebinds whatever depends on the slots it replaces. All
that is wrong in a file is reported together, with line and column.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentlayers.errors import LayerError
from agentlayers.layer.catalogue import Catalogue
from agentlayers.layer.container import LayerContainer, replace_slots
from agentlayers.layer.errors import (
    LayerSchemaError,
    LayerValidationError,
    PresetNotFoundError,
    suggestion,
)
from agentlayers.layer.origin import Origin
from agentlayers.layer.preset import find_preset
from agentlayers.layer.yaml_expression import SlotReader
from agentlayers.layer.yaml_tree import Map, Scalar, Tree, TreeReader

__all__ = ["load_layers"]

_RESERVED: Final = ("container", "extends")


def load_layers(
    source: str | Path,
    *,
    container: type[LayerContainer],
    containers: Mapping[str, type[LayerContainer]] | None = None,
    catalogue: Catalogue | None = None,
    environment: Mapping[str, str] | None = None,
    presets: Sequence[Path] | None = None,
    allow_imports: Sequence[str] = (),
) -> type[LayerContainer]:
    """
    Make a container class from YAML; nothing is built or opened.

    Args:
        source: A path, the name of a preset, or YAML text (anything with a line break or a ``: ``).
        container: What the file fills when it does not say ``container:``.
        containers: The containers a file may name.
        catalogue: Implementations to offer beyond the container's own catalogue.
        environment: For ``${NAME}``; :data:`os.environ` when left out.
        presets: Where named presets are; the package's own when left out.
        allow_imports: Packages and modules from which the file may take classes by path (``package.module:Name``).

    Returns:
        A subclass of the container. Call ``.build(Service)`` on it, or extend it further.

    Raises:
        LayerValidationError: With everything that is wrong in the file.
        PresetNotFoundError: Neither a file nor a preset is called ``source``.
    """
    loader = _Loader(
        container,
        dict(containers or {}),
        catalogue,
        os.environ if environment is None else environment,
        presets,
        allow_imports,
    )
    return loader.load(source)


@dataclass(slots=True)
class _Loader:
    container: type[LayerContainer]
    containers: dict[str, type[LayerContainer]]
    catalogue: Catalogue | None
    environment: Mapping[str, str]
    presets: Sequence[Path] | None
    allow_imports: Sequence[str]
    chain: list[str] = field(default_factory=list)

    def load(self, source: str | Path) -> type[LayerContainer]:
        if isinstance(source, str) and ("\n" in source or ": " in source):
            return self.text(source, "<text>", Path.cwd())
        path = self.locate(source, None)
        return self.file(path)

    def locate(self, source: str | Path, beside: Path | None) -> Path:
        """Find a file: beside the one that names it, then as a preset."""
        path = Path(source)
        written_as_path = isinstance(source, Path) or path.suffix in {".yaml", ".yml"} or "/" in source
        candidate = path if beside is None else beside / path
        if written_as_path and candidate.is_file():
            return candidate
        if written_as_path and (path.parent != Path() or isinstance(source, Path)):
            message = f"there is no file {candidate}"
            raise PresetNotFoundError(message)
        return find_preset(str(source), self.presets)

    def file(self, path: Path) -> type[LayerContainer]:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise PresetNotFoundError(f"cannot read {path}: {reason}") from error
        self.chain.append(str(path.resolve()))
        return self.text(text, str(path), path.parent)

    def text(self, text: str, name: str, beside: Path) -> type[LayerContainer]:
        reader = TreeReader(name, self.environment)
        tree = reader.read(text)
        problems: list[LayerError] = reader.problems
        if tree is None and not problems:
            tree = Map({}, {}, Origin(name, 1, 1))
        if tree is not None and not isinstance(tree, Map):
            problems.append(
                LayerSchemaError(
                    "a file of layers is a mapping of slots",
                    origin=tree.origin,
                    hint="write slot: implementation",
                )
            )
        if not isinstance(tree, Map):
            raise LayerValidationError(problems, what=name)
        count = len(problems)
        base = self._base(tree, beside, problems)
        made = self._overlay(base, tree, name, problems)
        if problems:
            derived = [p for p in problems[count:] if getattr(p, "origin", None) in reader.unfilled]
            raise LayerValidationError([p for p in problems if p not in derived], what=name)
        return made

    def _overlay(
        self, base: type[LayerContainer], tree: Map, name: str, problems: list[LayerError]
    ) -> type[LayerContainer]:
        catalogue = base.catalogue if self.catalogue is None else base.catalogue | self.catalogue
        slots = SlotReader(base, catalogue, problems, self.allow_imports)
        for slot, value in tree.entries.items():
            if slot not in _RESERVED:
                slots.read(slot, value, tree.keys[slot])
        if problems:
            return base
        label = f"{base.__name__.partition('[')[0]}[{Path(name).name}]"
        made = replace_slots(base, label, slots.made, slots.origins)
        if self.catalogue is not None:
            type.__setattr__(made, "catalogue", catalogue)
        return made

    # -- what a file builds on ------------------------------------------------------------------------------
    def _base(self, tree: Map, beside: Path, problems: list[LayerError]) -> type[LayerContainer]:
        named = self._named_container(tree.entries.get("container"), problems)
        extends = tree.entries.get("extends")
        if extends is None:
            return named or self.container
        if not isinstance(extends, Scalar) or not isinstance(extends.value, str):
            problems.append(LayerSchemaError("extends takes the name of a preset or a file", origin=extends.origin))
            return named or self.container
        try:
            path = self.locate(extends.value, beside)
        except PresetNotFoundError as error:
            problems.append(LayerSchemaError(f"extends: {error.summary}", origin=extends.origin))
            return named or self.container
        if str(path.resolve()) in self.chain:
            circle = " -> ".join(Path(step).name for step in (*self.chain, str(path)))
            problems.append(LayerSchemaError(f"files extend each other in a circle: {circle}", origin=extends.origin))
            return named or self.container
        return self._extended(path, named, extends, problems)

    def _extended(
        self, path: Path, named: type[LayerContainer] | None, extends: Tree, problems: list[LayerError]
    ) -> type[LayerContainer]:
        if named is not None:
            self.container = named
        try:
            base = self.file(path)
        except LayerValidationError as error:
            problems.extend(error.problems)
            return self.container
        if named is not None and not issubclass(base, named):
            problems.append(
                LayerSchemaError(
                    f"{path.name} fills {base.__name__.partition('[')[0]}, this file {named.__name__}",
                    origin=extends.origin,
                    hint="leave container: out, or extend a file of the same container",
                )
            )
        return base

    def _named_container(self, name: Tree | None, problems: list[LayerError]) -> type[LayerContainer] | None:
        if name is None:
            return None
        found = self.containers.get(str(name.value)) if isinstance(name, Scalar) else None
        if found is None:
            shown = name.shown if isinstance(name, Scalar) else "this"
            problems.append(
                LayerSchemaError(
                    f"container: there is no container {shown!r}{suggestion(shown, self.containers)}",
                    origin=name.origin,
                )
            )
        return found
