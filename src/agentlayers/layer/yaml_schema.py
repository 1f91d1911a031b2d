"""A JSON Schema of what a container's YAML may say, for editors."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dependency_injector import providers

from agentlayers.layer.catalogue import Catalogue, CatalogueEntry
from agentlayers.layer.container import LayerContainer, container_services
from agentlayers.layer.inspection import UNRESOLVED, Parameter, parameters_of, service_candidates
from agentlayers.layer.provider_walk import CALLING
from agentlayers.layer.text_form import has_text_form
from agentlayers.layer.yaml_expression import LIST_TYPES, MAPPING_TYPES, entries_for

__all__ = ["schema_of"]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE: Final = {"type": "string", "pattern": r"\$\{"}
_REFERENCE: Final = {
    "type": "object",
    "properties": {"ref": {"type": "string", "description": "slot or slot.attribute"}},
    "required": ["ref"],
    "additionalProperties": False,
}
_SCALARS: Final[Mapping[Any, str]] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}


def schema_of(container: type[LayerContainer], *, catalogue: Catalogue | None = None) -> dict[str, Any]:
    """
    Describe the YAML of a container.

    Args:
        container: Whose slots may be written.
        catalogue: Implementations beyond the container's own.

    Returns:
        A JSON Schema; what it cannot express (a variable that has to be set) is left to :func:`load_layers`.
    """
    return _Writer(container, container.catalogue if catalogue is None else container.catalogue | catalogue).schema()


class _Writer:
    def __init__(self, container: type[LayerContainer], catalogue: Catalogue) -> None:
        self.container, self.catalogue = container, catalogue
        self.services = container_services(container)
        self.definitions: dict[str, Any] = {}

    def schema(self) -> dict[str, Any]:
        slots = {name: self._slot(name, provider) for name, provider in self.container.providers.items()}
        head = {
            "extends": {"type": "string", "description": "A preset's name, or a file beside this one."},
            "container": {"type": "string", "description": "The container this file fills."},
        }
        return {
            "$schema": _DIALECT,
            "title": self.container.__name__,
            "description": _summary(self.container),
            "type": "object",
            "properties": {**head, **slots},
            "additionalProperties": False,
            "$defs": self.definitions,
        }

    def _slot(self, name: str, provider: Any) -> dict[str, Any]:
        if isinstance(provider, providers.Configuration):
            return {"type": "object", "description": "Configuration values, merged over those below."}
        choices: list[Any] = [_REFERENCE, {"type": "null"}]
        entries = self.catalogue.get(name, {})
        if entries:
            choices.append(self._expression(entries))
        if isinstance(provider, CALLING) and provider.provides is not None:
            choices.append(self._named_arguments(provider.provides, "Other arguments for what the slot holds."))
        elif not entries:
            choices.append(self._value(self.services.get(name) or UNRESOLVED))
        return {"anyOf": choices}

    # -- implementations ------------------------------------------------------------------------------------------
    def _expression(self, entries: Mapping[str, CatalogueEntry]) -> dict[str, Any]:
        """Describe ``name`` and ``{name: arguments}``; written once for each set of implementations."""
        key = "-".join(entries)
        if key not in self.definitions:
            self.definitions[key] = {}  # first, because expressions may nest in themselves
            named = {name: self._entry(entry) for name, entry in entries.items()}
            self.definitions[key] = {
                "anyOf": [
                    {"enum": list(entries)},
                    {
                        "type": "object",
                        "properties": named,
                        "minProperties": 1,
                        "maxProperties": 1,
                        "additionalProperties": False,
                    },
                ]
            }
        return {"$ref": f"#/$defs/{key}"}

    def _entry(self, entry: CatalogueEntry) -> dict[str, Any]:
        text = _summary(entry.source)
        if entry.lifetime == "value":
            return {"type": "null", "description": text}
        parameters = parameters_of(entry.source)
        if parameters is None:
            return {"description": text}
        positional = [p for p in parameters if p.kind in {p.kind.POSITIONAL_ONLY, p.kind.POSITIONAL_OR_KEYWORD}]
        variadic = next((p for p in parameters if p.kind is p.kind.VAR_POSITIONAL), None)
        listed: dict[str, Any] = {"type": "array"}
        if positional:
            listed["prefixItems"] = [self._value(p.hint) for p in positional]
        listed["items"] = self._value(variadic.hint) if variadic is not None else False
        forms: list[Any] = [{"type": "null"}, self._named_arguments(entry.source, ""), listed]
        first = positional[0] if positional else variadic
        if first is not None:
            forms.append(self._value(first.hint))
        return {"anyOf": forms, "description": text}

    def _named_arguments(self, make: Any, text: str) -> dict[str, Any]:
        parameters: Iterable[Parameter] = parameters_of(make) or ()
        open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {p.name: self._value(p.hint) for p in parameters if not p.is_variadic},
            "additionalProperties": open_ended or parameters_of(make) is None,
        }
        return {**schema, "description": text} if text else schema

    # -- values ---------------------------------------------------------------------------------------------------
    def _value(self, hint: Any) -> dict[str, Any]:
        candidates = service_candidates(hint)
        if not candidates or any(c in {Any, object} for c in candidates):
            return {}
        choices: list[Any] = [_REFERENCE, _VARIABLE]
        for candidate in candidates:
            choices.extend(self._candidate(candidate))
        if type(None) in typing.get_args(hint):
            choices.append({"type": "null"})
        return {"anyOf": choices}

    def _candidate(self, candidate: Any) -> list[Any]:
        origin, arguments = typing.get_origin(candidate) or candidate, typing.get_args(candidate)
        if origin is typing.Literal:
            return [{"enum": list(arguments)}]
        if has_text_form(candidate):
            return [{"type": "string", "description": _summary(candidate.from_text)}]
        if candidate in _SCALARS:
            return [{"type": _SCALARS[candidate]}]
        if origin in LIST_TYPES:
            return [{"type": "array", "items": self._value(arguments[0] if arguments else UNRESOLVED)}]
        if origin in MAPPING_TYPES:
            element = arguments[1] if len(arguments) > 1 else UNRESOLVED
            return [{"type": "object", "additionalProperties": self._value(element)}]
        entries = entries_for(candidate, self.catalogue, self.services)
        if entries:
            return [self._expression(entries)]
        if dataclasses.is_dataclass(candidate) or hasattr(candidate, "model_fields"):
            return [self._named_arguments(candidate, _summary(candidate))]
        return [{}] if not isinstance(candidate, type) else []


def _summary(thing: Any) -> str:
    text = inspect.getdoc(thing) or ""
    return text.strip().partition("\n")[0]
