"""
What a layer can see while it is compiled: bindings made by ``provide``, and a container's slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from agentlayers.layer.inspection import Parameter
from agentlayers.layer.provider_walk import Provider

if TYPE_CHECKING:
    from agentlayers.layer.compiled_container import CompiledContainer
    from agentlayers.layer.layer import Layer

__all__ = ["Binding", "Environment"]


class Binding:
    """
    A service that a layer will bring when asked; compiled at most once, however many services it brings.
    """

    __slots__ = ("environment", "layer", "shared", "wanted")

    def __init__(
        self,
        layer: Layer,
        environment: Environment,
        wanted: Any,
        shared: list[dict[Any, Provider]] | None = None,
    ) -> None:
        self.layer, self.environment, self.wanted = layer, environment, wanted
        self.shared: list[dict[Any, Provider]] = [] if shared is None else shared

    def also(self, wanted: Any) -> Binding:
        """Bind another service of the same layer."""
        return Binding(self.layer, self.environment, wanted, self.shared)

    @property
    def outputs(self) -> dict[Any, Provider] | None:
        """What compiling gave, once it was done."""
        return self.shared[0] if self.shared else None

    @outputs.setter
    def outputs(self, value: dict[Any, Provider]) -> None:
        self.shared[:] = [value]


class Environment:
    """
    A chain of scopes, innermost first.

    Args:
        outer: Where to look on.
        container: A container whose slots are visible.
        excluding: The slot being replaced, which must not feed itself.
        fallback: Slots count only when nothing further out offers the service.
    """

    __slots__ = (
        "_excluding",
        "_fallback",
        "_recorded",
        "bindings",
        "container",
        "is_private",
        "outer",
        "scope",
    )

    def __init__(
        self,
        outer: Environment | None = None,
        *,
        container: CompiledContainer | None = None,
        excluding: str | None = None,
        fallback: bool = False,
    ) -> None:
        self.outer = outer
        self.bindings: dict[Any, Binding] = {}
        self.container = container
        self._excluding, self._fallback = excluding, fallback
        self.scope: object = outer.scope if outer is not None else object()
        self.is_private: bool = container is not None or (outer is not None and outer.is_private)
        self._recorded: dict[Any, Binding | Provider] | None = None

    def nested(self) -> Environment:
        """See the same, but share nothing that is made here with what is made outside."""
        inner = Environment(self)
        inner.scope = object()
        return inner

    def recording(self) -> Environment:
        """See the same, and remember what was taken from here."""
        inner = self.nested()
        inner.is_private = True
        inner._recorded = {}
        return inner

    def used(self) -> Mapping[Any, Binding | Provider]:
        """Give what was taken from a recording environment, by service."""
        return self._recorded or {}

    def names(self) -> Mapping[str, Any]:
        """
        Give the visible services by their class name, for annotations that cannot be evaluated.
        """
        return _Names(self)

    def container_memo(self) -> dict[int, Any]:
        """
        Map the class-level slots of the visible containers to their instances, for copying providers.
        """
        memo: dict[int, Any] = {}
        for environment in self._chain():
            if environment.container is not None:
                for key, value in environment.container.memo.items():
                    memo.setdefault(key, value)
                for slot in environment.container.slots.values():
                    memo.setdefault(id(slot), slot)
        return memo

    def find(self, parameter: Parameter) -> Any:
        """
        Find what fills a parameter.

        Returns:
            A binding, a container's slot, the offers between which nothing decides, or None.
        """
        late: list[Environment] = []
        for environment in self._chain():
            if environment._fallback and environment.container is not None:
                late.append(environment)
                found = environment._among(parameter, slots=False)
            else:
                found = environment._among(parameter)
            if found is not None:
                return self._record(found, environment)
        for environment in late:
            found = environment._among(parameter)
            if found is not None:
                return self._record(found, environment)
        return None

    def find_service(self, service: Any) -> Any:
        """Find what offers a service, by ``provide`` only."""
        parameter = Parameter("", service, "", required=True, kind=None)
        for environment in self._chain():
            found = environment._among(parameter, slots=False)
            if found is not None:
                return self._record(found, environment)
        return None

    def _chain(self) -> Iterator[Environment]:
        environment: Environment | None = self
        while environment is not None:
            yield environment
            environment = environment.outer

    def _among(self, parameter: Parameter, *, slots: bool = True) -> Any:
        offers: list[tuple[str, Any, Any]] = [("", service, binding) for service, binding in self.bindings.items()]
        found: Any = _best_binding(parameter, offers) if offers else None
        if found is None and slots and self.container is not None:
            found = self.container.offers.best(parameter, self._excluding)
            return found[2] if isinstance(found, tuple) else found
        return found

    def _record(self, found: Any, owner: Environment) -> Any:
        """Remember in each recording environment on the way what came from beyond it."""
        if isinstance(found, list):
            return found
        for environment in self._chain():
            if environment is owner:
                break
            if environment._recorded is not None:
                service = found.wanted if isinstance(found, Binding) else owner._service_of(found)
                environment._recorded[service] = found
        return found

    def _service_of(self, slot: Provider) -> Any:
        assert self.container is not None
        slots = self.container.slots
        return next(service for name, service in self.container.services.items() if slots[name] is slot)


def _best_binding(parameter: Parameter, offers: list[tuple[str, Any, Any]]) -> Any:
    from agentlayers.layer.inspection import service_candidates
    from agentlayers.layer.wiring import is_service_type

    for candidate in service_candidates(parameter.hint):
        for _name, service, binding in offers:
            if service == candidate:
                return binding
    for candidate in service_candidates(parameter.hint):
        if not is_service_type(candidate):
            continue
        derived = [
            binding
            for _name, service, binding in offers
            if isinstance(service, type) and isinstance(candidate, type) and candidate in service.__mro__
        ]
        if derived:
            return derived[0]
    return None


class _Names(Mapping[str, Any]):
    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def __getitem__(self, name: str) -> Any:
        for environment in self._environment._chain():
            for service in environment.bindings:
                if getattr(service, "__name__", None) == name:
                    return service
            if environment.container is not None and name in environment.container.known:
                return environment.container.known[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 1
