"""Write a container class as YAML, as far as its catalogue has names for what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from dependency_injector import providers

from agentlayers.errors import LayerError, UsageError
from agentlayers.layer.blueprint import make_blueprint
from agentlayers.layer.catalogue import Catalogue, CatalogueEntry, EntryLifetime
from agentlayers.layer.container import LayerContainer, container_services, slot_origin
from agentlayers.layer.errors import LayerValidationError, NotInCatalogueError
from agentlayers.layer.inspection import Parameter, parameters_of, qualified_name, unwrap_generator
from agentlayers.layer.layer import Layer
from agentlayers.layer.provider_walk import effective, parts_of
from agentlayers.layer.secret import is_secret
from agentlayers.layer.text_form import text_of
from agentlayers.layer.wiring import Offers
from agentlayers.layer.yaml_expression import PROVIDER_OF, entries_for

__all__ = ["to_yaml"]


def to_yaml(
    target: type[LayerContainer] | Layer,
    *,
    base: type[LayerContainer] | None = None,
    catalogue: Catalogue | None = None,
    show_secrets: bool = False,
) -> str:
    """
    Write the slots of a container; :func:`load_layers` with the same catalogue gives the same graph.

    Args:
        target: A container class, or a layer made from one (``Container.layer(...)``, with what is provided to it).
        base: Leave out the slots that are the same there.
        catalogue: Names to use; the container's own when left out.
        show_secrets: Write tokens and passwords as they are; otherwise each is written as a variable,
            ``${SLOT_PARAMETER}``.

    Raises:
        LayerValidationError: A callable or a value that has no name in the catalogue.
        UsageError: A layer that is not made from a container.
    """
    source = _source(target)
    names = source.container.catalogue if catalogue is None else catalogue
    writer = _Writer(source, names, show_secrets=show_secrets)
    before = _Writer(_source(base), names, show_secrets=show_secrets) if base is not None else None
    slots: dict[str, Any] = {}
    for name in source.slots:
        try:
            written = writer.slot(name)
        except _UnnamedError as error:
            origin = slot_origin(source.container, name)
            writer.problems.append(NotInCatalogueError(f"{name}: {error}", origin=origin))
            continue
        if written is not _ABSENT and not (before is not None and before.same(name, written)):
            slots[name] = written
    if writer.problems:
        raise LayerValidationError(writer.problems, what=source.container.__name__)
    text: str = yaml.safe_dump(slots, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text


@dataclass(frozen=True, slots=True)
class _Source:
    container: type[LayerContainer]
    slots: Mapping[str, Any]
    services: Mapping[str, Any]


def _source(target: Any) -> _Source:
    if isinstance(target, type) and issubclass(target, LayerContainer):
        return _Source(target, target.providers, container_services(target))
    compiled = make_blueprint(target).container
    if compiled is None:
        message = f"only a layer made from a container can be written as YAML, not {target!r}"
        raise UsageError(message)
    return _Source(compiled.cls, compiled.slots, compiled.services)


class _UnnamedError(Exception):
    pass


_ABSENT = object()


class _Writer:
    def __init__(self, source: _Source, catalogue: Catalogue, *, show_secrets: bool) -> None:
        self.source, self.catalogue, self.show_secrets = source, catalogue, show_secrets
        self.services = source.services
        self.names: dict[int, str] = {}
        for name, provider in source.slots.items():
            self.names.setdefault(id(provider), name)
            self.names.setdefault(id(effective(provider)), name)
        self.offers = Offers((n, s, source.slots[n]) for n, s in source.services.items() if s is not None)
        self.problems: list[LayerError] = []
        self._written: set[int] = set()
        self._slot = ""

    def same(self, name: str, written: Any) -> bool:
        """Tell whether a slot is written the same here."""
        try:
            return name in self.source.slots and self.slot(name) == written
        except _UnnamedError:
            return False

    def slot(self, name: str) -> Any:
        """Write one slot."""
        provider: Any = self.source.slots[name]
        self._slot = name
        if self.names[id(provider)] != name:
            return {"ref": self.names[id(provider)]}
        provider = effective(provider)
        if self.names[id(provider)] != name:
            return {"ref": self.names[id(provider)]}
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
        lifetime = next((name for name, kind in PROVIDER_OF.items() if isinstance(provider, kind)), None)
        if lifetime is None:
            message = f"a {type(provider).__name__} provider cannot be written as YAML"
            raise _UnnamedError(message)
        if id(provider) in self._written:
            message = f"one {qualified_name(provider.provides)} is used in two places; give it a slot of its own"
            raise _UnnamedError(message)
        self._written.add(id(provider))
        name = self._name(provider, lifetime, entries)
        make: Any = provider.provides
        parameters = {p.name: p for p in parameters_of(make) or ()}
        if provider.args and self._variadic(provider):
            return {name: [self._argument(item, None) for item in provider.args]}
        arguments = {
            label: self._named(label, value, parameters.get(label))
            for label, value in parts_of(provider)
            if not self._is_wired(value, parameters.get(label))
        }
        return {name: arguments} if arguments else name

    def _named(self, label: str, value: Any, parameter: Parameter | None) -> Any:
        if is_secret(label) and isinstance(value, str) and value and not self.show_secrets:
            return "${" + f"{self._slot}_{label}".upper() + "}"
        return self._argument(value, parameter.hint if parameter is not None else None)

    def _is_wired(self, value: Any, parameter: Parameter | None) -> bool:
        """Tell whether an argument is what wiring would find anyway, so that nobody has to write it."""
        if parameter is None or not providers.is_provider(value):
            return False
        found = self.offers.best(parameter, self._slot)
        return isinstance(found, tuple) and effective(found[2]) is effective(value)

    def _variadic(self, provider: Any) -> bool:
        parameters = parameters_of(provider.provides)
        return parameters is None or any(p.kind is p.kind.VAR_POSITIONAL for p in parameters)

    def _name(self, provider: Any, wanted: EntryLifetime, entries: Mapping[str, CatalogueEntry]) -> str:
        make = unwrap_generator(provider.provides)
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
        text = text_of(value)
        if text is not None:
            return text.replace("$", "$$")
        message = f"a value of {qualified_name(type(value))} cannot be written as YAML"
        raise _UnnamedError(message)
