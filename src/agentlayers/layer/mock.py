"""Partial services for tests: what a test does not need is not written, and using it says so."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from agentlayers.errors import UsageError

__all__ = ["UnimplementedError", "make_mock"]


class UnimplementedError(UsageError):
    """
    A mocked service was used beyond what the test gave it.

    Attributes:
        service: The mocked service's name.
        attribute: What was asked for.
    """

    def __init__(self, *, service: str, attribute: str) -> None:
        self.service, self.attribute = service, attribute
        super().__init__(f"the mock of {service} has no {attribute!r}; give it: Layer.mock({service}, {attribute}=...)")


def make_mock(service: type[Any], attributes: Mapping[str, object]) -> Any:
    """
    Make an instance of ``service`` that has only ``attributes``.

    It passes :func:`isinstance`, runs no constructor, and raises on everything else that the class declares.

    Raises:
        UsageError: An attribute that looks like a misspelling of one of the service's.
    """
    known = [name for name in _declared(service) if not name.startswith("__")]
    for name in attributes:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        if name not in known and close:
            message = f"{service.__name__} has no attribute {name!r}; did you mean {close[0]!r}?"
            raise UsageError(message)
    missing = frozenset(known) - frozenset(attributes)

    def lookup(self: object, name: str) -> object:
        if name in attributes:
            return attributes[name]
        if name in missing:
            raise UnimplementedError(service=service.__name__, attribute=name)
        return object.__getattribute__(self, name)

    members: dict[str, Any] = {
        "__getattribute__": lookup,
        "__slots__": (),
        "__init__": lambda _self: None,
        "__repr__": lambda _self: f"<mock of {service.__name__}>",
        "__module__": service.__module__,
    }
    # Special methods are looked up on the type.
    members.update({name: value for name, value in attributes.items() if name.startswith("__")})
    metaclass: Any = type(service)
    mocked: Any = metaclass(f"Mock{service.__name__}", (service,), members)
    mocked.__abstractmethods__ = frozenset()
    return object.__new__(mocked)


def _declared(service: type[Any]) -> set[str]:
    names: set[str] = set()
    for base in service.__mro__:
        if base is not object:
            names.update(vars(base), vars(base).get("__annotations__", ()))
    return names
