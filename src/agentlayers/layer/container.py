"""
Declarative containers that rebind: dependency-injector's, with slots that promise a service.

A subclass that replaces a slot rebinds every inherited dependent. Parameters left open are wired by annotation when an
app is made from the container. A container is also a layer, each slot a need with a default.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

from dependency_injector import containers, providers

from agentlayers.errors import UsageError
from agentlayers.layer.catalogue import Catalogue
from agentlayers.layer.errors import LayerValidationError, UnknownNameError, suggestion
from agentlayers.layer.inspection import service_candidates
from agentlayers.layer.layer import Layer
from agentlayers.layer.origin import UNKNOWN_ORIGIN, Origin, caller_origin
from agentlayers.layer.provider_walk import Provider, copy_in_order
from agentlayers.layer.rebinding import rebind
from agentlayers.layer.slot import class_origins, promised_service, read_annotations, service_of

if TYPE_CHECKING:
    from agentlayers.layer.app import App

__all__ = ["ContainerLayer", "LayerContainer", "container_services", "instantiate", "slot_origin"]

T = TypeVar("T")
_BaseMeta = type(containers.DeclarativeContainer)


class _LayerContainerMeta(_BaseMeta):  # type: ignore[misc, valid-type]
    def __new__(mcs, name: str, bases: tuple[type[Any], ...], attributes: dict[str, Any]) -> Any:
        body = dict(attributes)
        cls = super().__new__(mcs, name, bases, attributes)
        names = _visible_names(body, sys._getframe(1))
        type.__setattr__(cls, "__slot_annotations__", _annotations(cls, body, names))
        own = {slot: provider for slot, provider in cls.cls_providers.items() if slot in body}
        type.__setattr__(cls, "__own_slots__", frozenset(own))
        ancestors = [base for base in cls.__mro__[1:] if containers.is_container(base) and base.providers]
        _refuse_plain_values(cls, body, ancestors)
        if ancestors:
            for slot, provider in rebind(cls, ancestors, own).items():
                setattr(cls, slot, provider)
        return cls


def _refuse_plain_values(cls: Any, body: Mapping[str, Any], ancestors: list[Any]) -> None:
    """Refuse ``slot = value`` in a class body, which would leave the inherited slot as it is."""
    for name, value in body.items():
        inherited = any(name in ancestor.providers for ancestor in ancestors)
        if inherited and not providers.is_provider(value):
            hint = "use it as Container.layer(slot=...)" if isinstance(value, Layer) else "write providers.Object(...)"
            message = f"{cls.__name__}.{name} is a slot and takes a provider, not {type(value).__name__}; {hint}"
            raise UsageError(message)


def _visible_names(body: Mapping[str, Any], frame: Any) -> Mapping[str, Any]:
    return {**frame.f_globals, **frame.f_locals, **body}


def _annotations(cls: Any, body: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    return read_annotations(body.get("__annotations__", {}), module=cls.__module__, name=cls.__qualname__, names=names)


class _Instance(containers.DynamicContainer):
    """An instance whose ``wire`` does not leave its container among the slots, of the class as well."""

    def wire(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().wire(*args, **kwargs)
        finally:
            owners: tuple[Any, ...] = (self, self.declarative_parent)
            for owner in owners:
                owner.providers.pop("__self__", None)


class LayerContainer(containers.DeclarativeContainer, metaclass=_LayerContainerMeta):
    """
    A declarative container whose slots can be replaced: by a subclass, by a layer, by YAML or by a test.

    Attributes:
        catalogue: What YAML may write, by slot and name; inherited where a subclass has none.
        on_demand: Slots that are started only when something needs or asks for them, not with all the others.
    """

    instance_type = _Instance
    catalogue: ClassVar[Catalogue] = Catalogue()
    on_demand: ClassVar[frozenset[str]] = frozenset()
    __declared__: ClassVar[Mapping[str, Origin]] = MappingProxyType({})

    @classmethod
    def layer(cls, outputs: tuple[type[Any] | str, ...] | None = None, **slots: object) -> Layer:
        """
        Use the container as a layer: each slot is a need with a default.

        ``layer.provide(...)`` replaces slots by service type; what replaces a slot may need the other slots.

        Args:
            outputs: The services to offer, by type or by slot name; all slots that promise one when left out.
            slots: Replacements by name: a layer, a provider or a plain value.

        Raises:
            LayerValidationError: A name that is no slot.
        """
        named = [output for output in outputs or () if isinstance(output, str)]
        unknown = [name for name in (*named, *slots) if name not in cls.providers]
        if unknown:
            raise LayerValidationError(
                [
                    UnknownNameError(
                        f"{cls.__name__} has no slot {name!r}{suggestion(name, cls.providers)}",
                        origin=caller_origin(),
                    )
                    for name in unknown
                ],
                what=f"container {cls.__name__}",
            )
        promised = container_services(cls)
        offered = tuple(dict.fromkeys(s for s in promised.values() if s is not None))
        services = tuple(cls._promised(output, promised) for output in outputs or offered)
        return ContainerLayer(cls, services, MappingProxyType(slots))

    @classmethod
    def _promised(cls, output: Any, promised: Mapping[str, Any]) -> Any:
        if not isinstance(output, str):
            return output
        if promised[output] is None:
            message = f"slot {output!r} of {cls.__name__} promises no service; annotate it: providers.Provider[Service]"
            raise UsageError(message)
        return promised[output]

    @overload
    @classmethod
    def build(cls, /) -> App: ...
    @overload
    @classmethod
    def build(cls, service: Callable[..., T], /) -> AbstractAsyncContextManager[T]: ...
    @classmethod
    def build(cls, service: Any = None, /) -> Any:
        """Open what ``service`` (or, without one, every slot not on demand) needs; see :meth:`Layer.build`."""
        from agentlayers.layer.app import App

        return App(cls) if service is None else App(cls, service).serving(service)

    @classmethod
    def override(cls, overriding: Any = None, /, **by_name: object) -> Any:
        """
        Replace slots in every app made from this container (or a subclass) inside the ``with`` block.

        Bound to the calling task. Given a container, it is dependency-injector's own process-wide ``override``.
        """
        if overriding is not None and not isinstance(overriding, Mapping):
            return super().override(overriding)
        from agentlayers.layer.override import override_target

        return override_target(cls, overriding, by_name)


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class ContainerLayer(Layer):
    """A container class used as a layer."""

    container: type[LayerContainer]
    services: tuple[type[Any], ...]
    replaced: Mapping[str, object]

    @property
    def outputs(self) -> tuple[type[Any], ...]:
        """The services asked of the container."""
        return self.services


def container_services(cls: Any) -> dict[str, Any]:
    """Give the service each slot of a container class promises, None where nothing is known."""
    services: dict[str, Any] = {}
    for name, provider in cls.providers.items():
        found = None
        for base in cls.__mro__:
            annotation = vars(base).get("__slot_annotations__", {}).get(name)
            if annotation is not None:
                found = promised_service(annotation, module=base.__module__)
                break
        candidates = service_candidates(found) if found is not None else ()
        services[name] = candidates[0] if candidates else service_of(provider)
    return services


def slot_origin(cls: Any, name: str) -> Origin:
    """Find where a slot was last written: YAML, a class body, or else the class."""
    for base in cls.__mro__:
        declared = vars(base).get("__declared__", {}).get(name)
        if declared is not None:
            return declared  # type: ignore[no-any-return]
        if name in vars(base).get("__own_slots__", vars(base).get("cls_providers", ())):
            origins = class_origins(base)
            found = origins.get(name) or origins.get("")
            return found or Origin(f"{base.__module__}.{base.__qualname__}")
    return UNKNOWN_ORIGIN


def instantiate(cls: Any) -> Any:
    """
    Make a private instance of a container class.

    The same as calling the class, without its limit on the graph's depth.
    """
    container = cls.instance_type()
    container.provider_type = cls.provider_type
    container.declarative_parent = cls
    container.wiring_config = copy.deepcopy(cls.wiring_config)
    memo: dict[int, Any] = {}
    copy_in_order(list(cls.providers.values()), memo)
    copied_self = providers.deepcopy(cls.__self__, memo)
    copied_self.set_container(container)
    container.__self__ = copied_self
    for name in copied_self.alt_names:
        container.set_provider(name, copied_self)
    for name, provider in cls.providers.items():
        container.set_provider(name, memo[id(provider)])
    if cls.auto_load_config:
        container.load_config()
    container.apply_container_providers_overridings()
    return container


def replace_slots(
    cls: type[LayerContainer],
    name: str,
    slots: Mapping[str, Provider],
    origins: Mapping[str, Origin],
) -> type[LayerContainer]:
    """Make a subclass in which ``slots`` are replaced, remembering where each was written."""
    namespace = {"__module__": cls.__module__, "__declared__": dict(origins), **slots}
    metaclass: Any = type(cls)
    made: type[LayerContainer] = metaclass(name, (cls,), namespace)
    return made
