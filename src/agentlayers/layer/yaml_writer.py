"""Write a container class as YAML, as far as its catalogue has names for what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from dependency_injector import providers

from agentlayers.errors import LayerError
from agentlayers.layer.catalogue import Catalogue, CatalogueEntry
from agentlayers.layer.container import LayerContainer, container_services, slot_origin
from agentlayers.layer.errors import LayerValidationError, NotInCatalogueError
from agentlayers.layer.inspection import parameters_of, qualified_name, unwrap_generator
from agentlayers.layer.provider_walk import effective, parts_of
from agentlayers.layer.yaml_expression import entries_for

__all__ = ["to_yaml"]


def to_yaml(
    container: type[LayerContainer],
    *,
    base: type[LayerContainer] | None = None,
    catalogue: Catalogue | None = None,
) -> str:
    """
    Write the slots of a container class; :func:`load_layers` with the same catalogue gives the same graph.

    Args:
        container: What to write.
        base: Leave out the slots that are the same there.
        catalogue: Names to use; the container's own when left out.

    Raises:
        LayerValidationError: A callable or a value that has no name in the catalogue.
    """
    writer = _Writer(container, container.catalogue if catalogue is None else catalogue)
    slots: dict[str, Any] = {}
    before = _Writer(base, writer.catalogue) if base is not None else None
    for name in container.providers:
        try:
            written = writer.slot(name)
        except _UnnamedError as error:
            writer.problems.append(NotInCatalogueError(f"{name}: {error}", origin=slot_origin(container, name)))
            continue
        if written is not _ABSENT and not (before is not None and before.same(name, written)):
            slots[name] = written
    if writer.problems:
        raise LayerValidationError(writer.problems, what=container.__qualname__)
    text: str = yaml.safe_dump(slots, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text


class _UnnamedError(Exception):
    pass


_ABSENT = object()


class _Writer:
    def __init__(self, container: type[LayerContainer], catalogue: Catalogue) -> None:
        self.container, self.catalogue = container, catalogue
        self.services = container_services(container)
        self.names = {id(provider): name for name, provider in container.providers.items()}
        self.problems: list[LayerError] = []
        self._written: set[int] = set()

    def same(self, name: str, written: Any) -> bool:
        try:
            return name in self.container.providers and self.slot(name) == written
        except _UnnamedError:
            return False

    def slot(self, name: str) -> Any:
        provider: Any = self.container.providers[name]
        if self.names[id(provider)] != name:
            return {"ref": self.names[id(provider)]}
        provider = effective(provider)
        if isinstance(provider, providers.Configuration):
            return self._value(provider() or {}, {}) or _ABSENT
        if isinstance(provider, providers.Dependency):
            return _ABSENT
        return self._expression(provider, self.catalogue.get(name, {}), top=True)

    def _expression(self, provider: Any, entries: Mapping[str, CatalogueEntry], *, top: bool = False) -> Any:
        if not top and id(provider) in self.names:
            return {"ref": self.names[id(provider)]}
        path = self._path(provider)
        if path is not None:
            return {"ref": path}
        if type(provider) is providers.Object:
            return self._value(provider.provides, entries)
        if isinstance(provider, providers.List):
            return [self._argument(item, None) for item in provider.args]
        if isinstance(provider, providers.Dict):
            return {str(key): self._argument(item, None) for key, item in provider.kwargs.items()}
        return self._call(provider, entries)

    def _call(self, provider: Any, entries: Mapping[str, CatalogueEntry]) -> Any:
        if not isinstance(provider, providers.Singleton | providers.Resource):
            message = f"a {type(provider).__name__} provider cannot be written as YAML"
            raise _UnnamedError(message)
        if id(provider) in self._written:
            message = f"one {qualified_name(provider.provides)} is used in two places; give it a slot of its own"
            raise _UnnamedError(message)
        self._written.add(id(provider))
        name = self._name(provider, entries)
        make: Any = provider.provides
        hints = {p.name: p.hint for p in parameters_of(make) or ()}
        if provider.args and self._variadic(provider):
            return {name: [self._argument(item, None) for item in provider.args]}
        arguments = {label: self._argument(value, hints.get(label)) for label, value in parts_of(provider)}
        return {name: arguments} if arguments else name

    def _variadic(self, provider: Any) -> bool:
        parameters = parameters_of(provider.provides)
        return parameters is None or any(p.kind is p.kind.VAR_POSITIONAL for p in parameters)

    def _name(self, provider: Any, entries: Mapping[str, CatalogueEntry]) -> str:
        make = unwrap_generator(provider.provides)
        wanted = "resource" if isinstance(provider, providers.Resource) else "singleton"
        for name, entry in entries.items():
            if entry.lifetime == wanted and (entry.source is make or entry.source == make):
                return name
        message = f"{qualified_name(make)} is in no catalogue as a {wanted}"
        raise _UnnamedError(message)

    def _argument(self, value: Any, hint: Any) -> Any:
        if not providers.is_provider(value):
            return self._value(value, {})
        provider = effective(value) if id(value) not in self.names else value
        entries = entries_for(hint, self.catalogue, self.services) if hint is not None else {}
        return self._expression(provider, entries or self._everything())

    def _everything(self) -> dict[str, CatalogueEntry]:
        return {name: entry for entries in self.catalogue.values() for name, entry in entries.items()}

    def _path(self, provider: Any) -> str | None:
        """Write ``slot.attribute`` for an option or an attribute of a slot."""
        steps: list[str] = []
        while True:
            if isinstance(provider, providers.TypedConfigurationOption):
                return None
            if isinstance(provider, providers.ConfigurationOption):
                root = provider._get_root()  # the option has no public way to its configuration
                return ".".join([self.names.get(id(root), "?"), *map(str, provider.get_name_segments()), *steps])
            if isinstance(provider, providers.AttributeGetter):
                steps.insert(0, str(provider.name))
                provider = provider.provides
            elif isinstance(provider, providers.ProvidedInstance):
                provider = provider.provides
                return ".".join([self.names[id(provider)], *steps]) if id(provider) in self.names else None
            else:
                return None

    def _value(self, value: Any, entries: Mapping[str, CatalogueEntry]) -> Any:
        for name, entry in entries.items():
            if entry.lifetime == "value" and entry.source is value:
                return name
        if isinstance(value, str):
            return value.replace("$", "$$")
        if value is None or isinstance(value, int | float | bool):
            return value
        if isinstance(value, list | tuple):
            return [self._value(item, {}) for item in value]
        if isinstance(value, Mapping):
            if list(value) == ["ref"]:
                message = "a mapping whose only key is 'ref' would be read as a reference"
                raise _UnnamedError(message)
            return {str(key): self._value(item, {}) for key, item in value.items()}
        message = f"a value of {qualified_name(type(value))} cannot be written as YAML"
        raise _UnnamedError(message)
