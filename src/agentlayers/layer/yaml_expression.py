"""
Turn the expressions of a YAML file into providers.

Names come from the catalogue of the slot, or of the service a parameter asks for; what may stand in an argument follows
from the constructor's annotations.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

from dependency_injector import providers

from agentlayers.errors import AgentLayersError, LayerError, UsageError
from agentlayers.layer.catalogue import Catalogue, CatalogueEntry, EntryLifetime
from agentlayers.layer.compiled_container import CompiledContainer
from agentlayers.layer.compiler import Compiler
from agentlayers.layer.container import LayerContainer, container_services
from agentlayers.layer.environment import Environment
from agentlayers.layer.errors import LayerSchemaError, suggestion
from agentlayers.layer.import_path import import_entry, is_import_path
from agentlayers.layer.inspection import (
    UNRESOLVED,
    Parameter,
    is_instance,
    parameters_of,
    provided_type,
    service_candidates,
)
from agentlayers.layer.layer import Layer
from agentlayers.layer.naming import service_label
from agentlayers.layer.origin import Origin
from agentlayers.layer.provider_walk import CALLING, Provider
from agentlayers.layer.secret import MASK, is_secret
from agentlayers.layer.text_form import has_text_form, read_text, text_kind
from agentlayers.layer.wiring import is_service_type
from agentlayers.layer.yaml_tree import Map, Scalar, Sequence, Tree, plain

__all__ = ["LIST_TYPES", "MAPPING_TYPES", "PROVIDER_OF", "SlotReader", "entries_for"]

LIST_TYPES: Final = (
    list,
    tuple,
    set,
    frozenset,
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Collection,
)
PROVIDER_OF: Final[Mapping[EntryLifetime, Any]] = {
    "singleton": providers.Singleton,
    "resource": providers.Resource,
    "request": providers.ContextLocalSingleton,
    "request_resource": providers.ContextLocalResource,
}
"""What a catalogue entry of each lifetime that calls something becomes."""

MAPPING_TYPES: Final = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class SlotReader:
    """
    Reads the slots of one file.

    Args:
        base: The container the file fills.
        catalogue: What may be named.
        problems: Where to report.
        allowed: Modules that may be named by import path.

    Attributes:
        made: The providers, by slot.
        origins: The line of each.
    """

    def __init__(
        self,
        base: type[LayerContainer],
        catalogue: Catalogue,
        problems: list[LayerError],
        allowed: typing.Sequence[str] = (),
    ) -> None:
        self.base, self.catalogue, self.problems, self.allowed = base, catalogue, problems, allowed
        self.services = container_services(base)
        self.known = {service_label(s): s for s in self.services.values() if s is not None}
        self.made: dict[str, Provider] = {}
        self.origins: dict[str, Origin] = {}

    def read(self, slot: str, value: Tree, origin: Origin) -> None:
        """Read one slot."""
        if slot not in self.base.providers:
            self._report(f"there is no slot {slot!r}{suggestion(slot, self.base.providers)}", origin)
            return
        self.origins[slot] = origin
        provider = self._slot(slot, value)
        if provider is not None:
            self.made.setdefault(slot, provider)

    def _slot(self, slot: str, value: Tree) -> Provider | None:
        current: Any = self.base.providers[slot]
        if isinstance(current, providers.Configuration):
            return self._configuration(current, value)
        reference = self._reference(value)
        if reference is not None:
            return reference
        entries = self.catalogue.get(slot, {})
        named = self._named(entries, value)
        if named is not None:
            return self._entry(*named, slot=slot)
        if isinstance(value, Map):
            return self._changed(slot, current, entries, value)
        return self._plain_slot(slot, entries, value)

    def _plain_slot(self, slot: str, entries: Mapping[str, CatalogueEntry], value: Tree) -> Provider | None:
        service = self.services.get(slot)
        if isinstance(value, Scalar) and value.value is None:
            return providers.Object(None)
        if (service is not None and is_service_type(service)) or entries:
            shown = value.shown if isinstance(value, Scalar) else "a list"
            self._report(f"{slot}: no implementation {shown!r}{suggestion(shown, entries)}", value.origin)
            return None
        return providers.Object(self._literal(value, service if service is not None else UNRESOLVED, slot))

    def _configuration(self, current: Any, value: Tree) -> Provider | None:
        if not isinstance(value, Map):
            self._report("configuration takes a mapping", value.origin)
            return None
        merged = _merged(current() or {}, plain(value))
        return providers.Configuration(current.get_name(), default=merged)

    # -- current implementation, other arguments ------------------------------------------------------------
    def _changed(self, slot: str, current: Any, entries: Mapping[str, CatalogueEntry], value: Map) -> Provider | None:
        chosen = [name for name in value.entries if name in entries]
        if chosen:
            others = ", ".join(repr(name) for name in value.entries if name != chosen[0])
            self._report(
                f"{slot}: {chosen[0]!r} is an implementation and stands alone, not beside {others}",
                value.origin,
            )
            return None
        if not isinstance(current, CALLING) or current.provides is None:
            first = next(iter(value.entries), "")
            self._report(f"{slot}: no implementation {first!r}{suggestion(first, entries)}", value.origin)
            return None
        make: Any = current.provides
        parameters = self._parameters(make)
        unknown = [n for n in value.entries if parameters is not None and n not in parameters]
        if unknown and len(value.entries) == 1 and not _takes_anything(make):
            names = [*entries, *(parameters or ())]
            self._report(
                f"{slot}: {unknown[0]!r} is neither an implementation nor a parameter of "
                f"{_short(make)}{suggestion(unknown[0], names)}",
                value.keys[unknown[0]],
            )
            return None
        given = self._named_arguments(make, value)
        made = type(current)(make)
        made.set_args(*current.args[: self._positional_kept(make, current, given)])
        made.set_kwargs(**{**self._positional_as_named(make, current, given), **current.kwargs, **given})
        return made

    def _positional_kept(self, make: Any, current: Any, given: Mapping[str, Any]) -> int:
        names = [p.name for p in parameters_of(make) or ()]
        clash = [index for index, name in enumerate(names[: len(current.args)]) if name in given]
        return clash[0] if clash else len(current.args)

    def _positional_as_named(self, make: Any, current: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        kept = self._positional_kept(make, current, given)
        names = [p.name for p in parameters_of(make) or ()]
        rest = list(zip(names, current.args, strict=False))[kept:]
        return {name: value for name, value in rest if name not in given}

    # -- catalogue entries ----------------------------------------------------------------------------------
    def _named(
        self, entries: Mapping[str, CatalogueEntry], value: Tree
    ) -> tuple[str, CatalogueEntry, Tree | None] | None:
        """Recognise ``name`` and ``{name: arguments}``."""
        name, arguments = "", None
        if isinstance(value, Scalar) and isinstance(value.value, str) and not value.from_environment:
            name = value.value
        elif isinstance(value, Map) and len(value.entries) == 1:
            name, arguments = next(iter(value.entries.items()))
        if name in entries:
            return name, entries[name], arguments
        if entries and is_import_path(name):
            return self._imported(name, arguments, value.origin)
        return None

    def _imported(
        self, path: str, arguments: Tree | None, origin: Origin
    ) -> tuple[str, CatalogueEntry, Tree | None] | None:
        try:
            return path, import_entry(path, self.allowed), arguments
        except UsageError as error:
            self._report(str(error), origin)
            return path, CatalogueEntry("value", None), None

    def _entry(self, name: str, entry: CatalogueEntry, arguments: Tree | None, *, slot: str = "") -> Provider | None:
        if entry.lifetime == "value":
            if arguments is not None:
                self._report(f"{name} is a ready value and takes no arguments", arguments.origin)
            return providers.Object(entry.source)
        args, kwargs = self._arguments(entry.source, arguments)
        if entry.lifetime == "recipe":
            return self._recipe(name, entry.source, args, kwargs, arguments, slot)
        made: Any = PROVIDER_OF[entry.lifetime](entry.source)
        made.set_args(*args)
        made.set_kwargs(**kwargs)
        return made  # type: ignore[no-any-return]

    def _recipe(
        self,
        name: str,
        make: Callable[..., Any],
        args: list[Any],
        kwargs: dict[str, Any],
        arguments: Tree | None,
        slot: str,
    ) -> Provider | None:
        """Call a recipe and turn its layer into class-level providers, which rebind like all others."""
        if self.problems:
            return None
        origin = arguments.origin if arguments is not None else self.origins.get(slot)
        try:
            inspect.signature(make).bind(*args, **kwargs)
            layer = make(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a recipe may refuse its arguments in any way
            self._report(f"{name}: {error}", origin or Origin("<text>"))
            return None
        assert isinstance(layer, Layer)
        compiler = Compiler()
        level = CompiledContainer(self.base, dict(self.base.providers), self.services)
        outputs = compiler.compile(layer, Environment(container=level, excluding=slot or None))
        self.problems.extend(compiler.problems)
        service = self.services.get(slot)
        for offered, provider in outputs.items():
            for other, promised in self.services.items():
                if other != slot and promised == offered and len(outputs) > 1:
                    self.made[other] = provider
        return outputs.get(service) or next(iter(outputs.values()))

    # -- arguments ------------------------------------------------------------------------------------------
    def _arguments(self, make: Any, arguments: Tree | None) -> tuple[list[Any], dict[str, Any]]:
        if arguments is None or (isinstance(arguments, Scalar) and arguments.value is None):
            return [], {}
        if isinstance(arguments, Map) and self._reference(arguments, report=False) is None:
            return [], self._named_arguments(make, arguments)
        items = arguments.items if isinstance(arguments, Sequence) else (arguments,)
        return self._positional_arguments(make, items), {}

    def _parameters(self, make: Any) -> dict[str, Parameter] | None:
        found = parameters_of(make, self.known)
        if found is None:
            return None
        return {parameter.name: parameter for parameter in found if not parameter.is_variadic}

    def _named_arguments(self, make: Any, arguments: Map) -> dict[str, Any]:
        parameters = self._parameters(make)
        given: dict[str, Any] = {}
        for name, value in arguments.entries.items():
            parameter = (parameters or {}).get(name)
            if parameter is None and parameters is not None and not _takes_anything(make):
                self._report(
                    f"{_short(make)} has no parameter {name!r}{suggestion(name, parameters)}",
                    arguments.keys[name],
                )
                continue
            given[name] = self._argument(value, parameter, name)
        return given

    def _positional_arguments(self, make: Any, items: tuple[Tree, ...]) -> list[Any]:
        parameters = parameters_of(make, self.known) or ()
        taken: list[Parameter | None] = []
        for parameter in parameters:
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                taken.extend([parameter] * (len(items) - len(taken)))
            elif not parameter.is_variadic and parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                taken.append(parameter)
        if len(items) > len(taken) and parameters_of(make) is not None:
            self._report(
                f"{_short(make)} takes {len(taken)} positional arguments, not {len(items)}",
                items[len(taken)].origin,
            )
        taken.extend([None] * (len(items) - len(taken)))
        return [
            self._argument(item, parameter, parameter.name if parameter else "argument")
            for item, parameter in zip(items, taken, strict=False)
        ]

    def _argument(self, value: Tree, parameter: Parameter | None, name: str) -> Any:
        count = len(self.problems)
        made = self._value(value, UNRESOLVED if parameter is None else parameter.hint, name)
        check = parameter.check if parameter is not None else None
        # A variable may hold a secret, or stand for itself; and what comes from a part is known only when it is there.
        if check is None or made is None or len(self.problems) > count or not _is_written_out(value, made):
            return made
        try:
            check(made)
        except (AgentLayersError, ValueError) as error:
            said = str(error)
            self._report(said if said.startswith(name) else f"{name}: {said}", _place_in(value, error))
        return made

    # -- values ---------------------------------------------------------------------------------------------
    def _value(self, value: Tree, hint: Any, label: str) -> Any:
        reference = self._reference(value)
        if reference is not None:
            return reference
        entries = entries_for(hint, self.catalogue, self.services)
        named = self._named(entries, value)
        if named is not None:
            return self._entry(*named)
        if isinstance(value, Sequence):
            return self._list(value, hint, label)
        if isinstance(value, Map):
            return self._map(value, hint, label, entries)
        if entries and isinstance(value.value, str) and not is_instance(value.value, hint):
            self._report(
                f"{label}: no implementation {value.shown!r}{suggestion(value.shown, entries)}",
                value.origin,
            )
            return None
        return self._literal(value, hint, label)

    def _list(self, value: Sequence, hint: Any, label: str) -> Any:
        element = _element_hint(hint, LIST_TYPES, 0)
        items = [self._value(item, element, label) for item in value.items]
        if any(providers.is_provider(item) for item in items):
            return providers.List(*items)
        self._check_container(items, hint, label, value.origin)
        return items

    def _map(self, value: Map, hint: Any, label: str, entries: Mapping[str, CatalogueEntry]) -> Any:
        model = next((c for c in service_candidates(hint) if _is_record(c)), None)
        if model is not None:
            made = providers.Singleton(model)
            made.set_kwargs(**self._named_arguments(model, value))
            return made
        if entries and not any(
            typing.get_origin(c) in MAPPING_TYPES or c in MAPPING_TYPES for c in service_candidates(hint)
        ):
            first = next(iter(value.entries), "")
            self._report(f"{label}: no implementation {first!r}{suggestion(first, entries)}", value.origin)
            return None
        element = _element_hint(hint, MAPPING_TYPES, 1)
        made_entries = {key: self._value(item, element, f"{label}.{key}") for key, item in value.entries.items()}
        if any(providers.is_provider(item) for item in made_entries.values()):
            return providers.Dict(made_entries)
        self._check_container(made_entries, hint, label, value.origin)
        return made_entries

    def _check_container(self, value: Any, hint: Any, label: str, origin: Origin) -> None:
        if isinstance(value, list) and any(
            c in {tuple, set, frozenset} or typing.get_origin(c) in {tuple, set, frozenset}
            for c in service_candidates(hint)
        ):
            return
        if not is_instance(value, hint):
            self._report(f"{label}: expected {_hint_text(hint)}, got a {_kind(value)}", origin)

    def _literal(self, value: Tree, hint: Any, label: str) -> Any:
        if not isinstance(value, Scalar):
            literal = plain(value)
            self._check_container(literal, hint, label, value.origin)
            return literal
        kind = text_kind(hint)
        if kind is not None and (isinstance(value.value, str) or not is_instance(value.value, hint)):
            return self._from_text(value, kind, hint, label)
        if is_instance(value.value, hint):
            return value.value
        for converted in _readings(value):
            if is_instance(converted, hint):
                return converted
        self._report(
            f"{label}: expected {_hint_text(hint)}, got {MASK if is_secret(label) else repr(value.shown)}"
            f" ({_kind(value.value)})",
            value.origin,
        )
        return None

    def _from_text(self, value: Scalar, kind: Any, hint: Any, label: str) -> Any:
        if value.from_environment and value.text == "" and is_instance(None, hint):
            return None
        try:
            return read_text(value, kind)
        except ValueError as error:
            self._report(f"{label}: {error}", value.origin)
            return None

    # -- references -----------------------------------------------------------------------------------------
    def _reference(self, value: Tree, *, report: bool = True) -> Provider | None:
        """Recognise ``{ref: slot}`` and ``{ref: slot.attribute}``."""
        if not isinstance(value, Map) or list(value.entries) != ["ref"]:
            return None
        target = value.entries["ref"]
        text = target.text if isinstance(target, Scalar) else ""
        slot, *path = text.split(".")
        provider: Any = self.base.providers.get(slot)
        if provider is None:
            if report:
                self._report(f"ref: there is no slot {slot!r}{suggestion(slot, self.base.providers)}", target.origin)
            return providers.Object(None)
        inside: Any = provider.providers if isinstance(provider, providers.Container) else {}
        if path and path[0] in inside:
            provider, path = inside[path[0]], path[1:]
        if path and not isinstance(provider, providers.Configuration):
            provider = provider.provided
        for step in path:
            provider = getattr(provider, step)
        return provider  # type: ignore[no-any-return]

    def _report(self, summary: str, origin: Origin) -> None:
        if not any(str(problem) == f"{origin}: {summary}" for problem in self.problems):
            self.problems.append(LayerSchemaError(summary, origin=origin))


def entries_for(hint: Any, catalogue: Catalogue, services: Mapping[str, Any]) -> Mapping[str, CatalogueEntry]:
    """Find the catalogue of the service a parameter asks for: a slot's, or that of a part."""
    for candidate in service_candidates(hint):
        if not isinstance(candidate, type) or not is_service_type(candidate):
            continue
        for slot, service in services.items():
            if service is not None and service == candidate and slot in catalogue:
                return catalogue[slot]
        found: dict[str, CatalogueEntry] = {}
        for entries in catalogue.values():
            for name, entry in entries.items():
                made = type(entry.source) if entry.lifetime == "value" else provided_type(entry.source)
                if entry.lifetime != "recipe" and isinstance(made, type) and issubclass(made, candidate):
                    found.setdefault(name, entry)
        if found:
            return found
    return {}


def _is_written_out(value: Tree, made: Any) -> bool:
    """Tell whether all of a value stands in the file."""
    if isinstance(value, Scalar):
        return not value.from_environment and not providers.is_provider(made)
    items = value.items if isinstance(value, Sequence) else value.entries.values()
    return not providers.is_provider(made) and all(_is_written_out(item, None) for item in items)


def _place_in(value: Tree, error: Exception) -> Origin:
    """Find the line of the entry that an error names with its setting."""
    entry = str(getattr(error, "setting", "")).rpartition(".")[2]
    return value.entries[entry].origin if isinstance(value, Map) and entry in value.entries else value.origin


def _element_hint(hint: Any, kinds: tuple[Any, ...], position: int) -> Any:
    for candidate in service_candidates(hint):
        arguments = typing.get_args(candidate)
        if typing.get_origin(candidate) in kinds and len(arguments) > position:
            return arguments[position]
    return UNRESOLVED


def _is_record(candidate: Any) -> bool:
    if not isinstance(candidate, type):
        return False
    return dataclasses.is_dataclass(candidate) or hasattr(candidate, "model_fields")


def _readings(value: Scalar) -> typing.Iterator[Any]:
    """Read a variable's text, or a number where a text is wanted, the way the parameter needs it."""
    if value.from_environment:
        for read in (int, float):
            try:
                yield read(value.text)
            except ValueError:
                continue
        if value.text.lower() in {"true", "false"}:
            yield value.text.lower() == "true"
        if value.text == "":
            yield None
    if value.from_environment and not isinstance(value.value, str):
        yield value.text


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        present = merged.get(key)
        merged[key] = _merged(present, value) if isinstance(present, dict) and isinstance(value, dict) else value
    return merged


def _takes_anything(make: Any) -> bool:
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters_of(make) or ())


def _short(make: Any) -> str:
    return str(getattr(make, "__qualname__", type(make).__qualname__)).rsplit("<locals>.", 1)[-1]


def _hint_text(hint: Any) -> str:
    candidates = [c for c in service_candidates(hint) if c is not str or text_kind(hint) is None]
    return " or ".join(map(_candidate_text, candidates)) or "another value"


def _candidate_text(candidate: Any) -> str:
    if typing.get_origin(candidate) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(candidate)))
    return service_label(candidate) + (" as text" if has_text_form(candidate) else "")


def _kind(value: Any) -> str:
    names = {str: "text", dict: "mapping", list: "list", bool: "boolean", type(None): "nothing"}
    return names.get(type(value), type(value).__name__)
