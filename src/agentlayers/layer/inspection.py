"""
Read what a callable asks for and what it makes from its annotations.

Annotations that name classes local to a function cannot be evaluated from a module; such names are looked up among the
services of the graph, which is what the author meant.
"""

from __future__ import annotations

import collections.abc
import contextlib
import functools
import inspect
import types
import typing
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "UNRESOLVED",
    "Parameter",
    "describe_callable",
    "is_instance",
    "parameters_of",
    "provided_type",
    "qualified_name",
    "service_candidates",
    "type_accepts",
    "unwrap_generator",
]

UNRESOLVED: Final = object()
"""Stands for an annotation that is absent or cannot be evaluated."""

_ITERATORS: Final = frozenset(
    {
        collections.abc.AsyncIterator,
        collections.abc.AsyncGenerator,
        collections.abc.AsyncIterable,
        collections.abc.Iterator,
        collections.abc.Generator,
        collections.abc.Iterable,
        contextlib.AbstractAsyncContextManager,
        contextlib.AbstractContextManager,
        collections.abc.Awaitable,
    }
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """
    One parameter of a constructor.

    Attributes:
        name: As written.
        hint: The evaluated annotation, or :data:`UNRESOLVED`.
        annotation: The annotation as text, for errors.
        required: It has no default.
        kind: As :mod:`inspect` has it.
        check: Of ``Annotated[X, check]``: called with what a file says, raises if that cannot be right.
    """

    name: str
    hint: Any
    annotation: str
    required: bool
    kind: Any
    check: Callable[[Any], object] | None = None

    @property
    def is_variadic(self) -> bool:
        """Whether it is ``*args`` or ``**kwargs``."""
        return self.kind in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


_entered: weakref.WeakKeyDictionary[type[Any], Any] = weakref.WeakKeyDictionary()
_cache: weakref.WeakKeyDictionary[Any, tuple[Parameter, ...]] = weakref.WeakKeyDictionary()


def parameters_of(make: Callable[..., Any], known: Mapping[str, Any] | None = None) -> tuple[Parameter, ...] | None:
    """
    List the parameters of ``make``, or return None for a callable that tells nothing about itself.

    Args:
        make: A class, function, method, partial or callable object.
        known: Services by name, for annotations that their own module cannot evaluate.
    """
    make = unwrap_generator(make)  # dependency-injector wraps it anew each time, which no cache would recognise
    try:
        cached = _cache.get(make)
    except TypeError:
        cached = None
    if cached is not None:
        return cached
    try:
        signature = inspect.signature(make)
    except (ValueError, TypeError):
        return None
    hints, checks = _hints(make, known or {}), _checks(make)
    found = tuple(
        Parameter(
            name=parameter.name,
            hint=hints.get(parameter.name, _fallback_hint(parameter.annotation)),
            annotation=_annotation_text(parameter.annotation),
            required=parameter.default is inspect.Parameter.empty
            and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD},
            kind=parameter.kind,
            check=checks.get(parameter.name),
        )
        for parameter in signature.parameters.values()
    )
    if all(p.hint is not UNRESOLVED or not p.annotation for p in found):
        with contextlib.suppress(TypeError):
            _cache[make] = found
    return found


def _fallback_hint(annotation: Any) -> Any:
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return UNRESOLVED
    return annotation


def _annotation_text(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    if isinstance(annotation, str):
        return annotation
    return inspect.formatannotation(annotation)


def _function_behind(make: Any) -> Any:
    while isinstance(make, functools.partial):
        make = make.func
    if isinstance(make, type):
        init = make.__init__  # type: ignore[misc]
        return init if init is not object.__init__ else make.__new__
    if inspect.isfunction(make) or inspect.ismethod(make) or inspect.isbuiltin(make):
        return make
    return type(make).__call__


def _hints(make: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    function = _function_behind(make)
    try:
        return typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 - an annotation may raise anything; then each is tried alone
        return _hints_one_by_one(function, known)


def _checks(make: Any) -> dict[str, Callable[[Any], object]]:
    function = _function_behind(make)
    if not any("Annotated" in str(text) for text in getattr(function, "__annotations__", {}).values()):
        return {}
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001 - see above; what cannot be read is not checked
        return {}
    metadata = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: check for name, given in metadata.items() for check in given if callable(check)}


def _hints_one_by_one(function: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    function = inspect.unwrap(getattr(function, "__func__", function))
    names = getattr(function, "__globals__", {})
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        hint = annotation
        if isinstance(annotation, str):
            hint = evaluate(annotation, names, known)
        if hint is not UNRESOLVED:
            hints[name] = hint
    return hints


def evaluate(text: str, names: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    """Evaluate an annotation's text with a module's names first and ``known`` for what is left."""

    class Lookup(dict[str, Any]):
        def __missing__(self, key: str) -> Any:
            if key in names:
                return names[key]
            builtin = getattr(__import__("builtins"), key, UNRESOLVED)
            if builtin is not UNRESOLVED:
                return builtin
            return known[key]

    try:
        return eval(text, {"__builtins__": {}}, Lookup())  # noqa: S307 - the user's own annotation, as typing does it
    except Exception:  # noqa: BLE001 - see above
        return UNRESOLVED


def service_candidates(hint: Any) -> tuple[Any, ...]:
    """List the types a hint allows, without None: ``X | None`` asks for ``X``."""
    if hint is UNRESOLVED or hint is None or hint is type(None):
        return ()
    if typing.get_origin(hint) is typing.Annotated:
        return service_candidates(typing.get_args(hint)[0])
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        found = [service_candidates(argument) for argument in typing.get_args(hint)]
        return tuple(candidate for candidates in found for candidate in candidates)
    return (hint,)


def provided_type(make: Any, known: Mapping[str, Any] | None = None) -> Any:
    """
    Tell what calling (and entering) ``make`` gives: a class, or None when its annotations do not say.

    For an iterator, a context manager or an awaitable it is what comes out of it.
    """
    while isinstance(make, functools.partial):
        make = make.func
    if isinstance(make, type):
        if make not in _entered:
            found = _entered_type(make, known or {})
            _entered[make] = None if found is make else found  # a value must not keep its own key alive
        return _entered[make] or make
    hint = _hints(make, known or {}).get("return", UNRESOLVED)
    while typing.get_origin(hint) in _ITERATORS or typing.get_origin(hint) is collections.abc.Coroutine:
        arguments = typing.get_args(hint)
        hint = arguments[-1] if typing.get_origin(hint) is collections.abc.Coroutine else arguments[0]
    if hint is Any or not (isinstance(hint, type) or typing.get_origin(hint) is not None):
        return None
    return hint


def _entered_type(make: type[Any], known: Mapping[str, Any]) -> Any:
    for name in ("__aenter__", "__enter__"):
        enter = getattr(make, name, None)
        if enter is None:
            continue
        hint = _hints_one_by_one(enter, known).get("return", UNRESOLVED)
        if isinstance(hint, type) and hint not in {type(None), Any, object}:
            return make if issubclass(make, hint) else hint
        break
    return make


def type_accepts(hint: Any, offered: Any) -> bool:
    """
    Tell whether an argument of class ``offered`` may go where ``hint`` stands; doubt counts as yes.
    """
    candidates = service_candidates(hint)
    if not candidates or not isinstance(offered, type) or offered is Any:
        return True
    return any(_accepts_one(candidate, offered) for candidate in candidates)


def _accepts_one(candidate: Any, offered: type[Any]) -> bool:
    candidate = typing.get_origin(candidate) or candidate
    if not isinstance(candidate, type):
        return True
    if getattr(candidate, "_is_protocol", False) or candidate in {object, Any}:
        return True
    if candidate is float and offered is int:
        return True
    try:
        return issubclass(offered, candidate)
    except TypeError:
        return True


def is_instance(value: object, hint: Any) -> bool:
    """Tell whether a literal may go where ``hint`` stands; doubt counts as yes."""
    if value is None:
        return hint is UNRESOLVED or _allows_none(hint)
    candidates = service_candidates(hint)
    if not candidates:
        return True
    return any(_is_instance_of_one(value, candidate) for candidate in candidates)


def _is_instance_of_one(value: object, candidate: Any) -> bool:
    if candidate is Any or (isinstance(candidate, type) and isinstance(value, candidate)):
        return True  # also for a mock, which names the class as its own
    if typing.get_origin(candidate) is typing.Literal:
        return any(type(value) is type(one) and value == one for one in typing.get_args(candidate))
    return _accepts_one(candidate, type(value))


def _allows_none(hint: Any) -> bool:
    if hint in {None, type(None), Any, object}:
        return True
    if not isinstance(hint, type) and not isinstance(hint, types.UnionType):
        return typing.get_origin(hint) is not typing.Union or type(None) in typing.get_args(hint)
    return isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint)


def unwrap_generator(make: Any) -> Any:
    """Undo the context manager that dependency-injector puts around a generator function."""
    inner = getattr(make, "__wrapped__", None)
    if inner is not None and (inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner)):
        return inner
    return make


def qualified_name(thing: Any) -> str:
    """Name a class, a function or a partial as ``module.qualname``, without addresses."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    thing = unwrap_generator(thing)
    name = getattr(thing, "__qualname__", None)
    if name is None:
        return qualified_name(type(thing))
    module = getattr(thing, "__module__", None) or "builtins"
    owner = getattr(thing, "__self__", None)
    if isinstance(owner, type) and "." in name:  # a class method belongs to the class it was taken from
        return f"{owner.__module__}.{owner.__qualname__}.{name.rsplit('.', 1)[1]}"
    return name if module == "builtins" else f"{module}.{name}"


def describe_callable(thing: Any) -> str:
    """Name a callable the way its user wrote it: without the module."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    thing = unwrap_generator(thing)
    return str(getattr(thing, "__qualname__", None) or type(thing).__qualname__).rpartition("<locals>.")[2]
