"""
What a container's slots promise and where they were written.

The service of a slot is the ``X`` of its annotation ``slot: providers.Provider[X]``; dependency-injector forgets the
``X`` when the annotation is evaluated, so it is read from the text. Without an annotation it is what the slot's
provider makes.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import sys
from collections.abc import Mapping
from typing import Any

from dependency_injector import providers

from agentlayers.layer.inspection import UNRESOLVED, evaluate, provided_type
from agentlayers.layer.origin import Origin
from agentlayers.layer.provider_walk import CALLING, Provider, effective

__all__ = ["class_origins", "promised_service", "read_annotations", "service_of"]


def read_annotations(own: Mapping[str, Any], *, module: str, name: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """
    Evaluate the slot annotations of one class body; those that cannot be yet stay text.

    Args:
        own: The body's ``__annotations__``.
        module: The class's module.
        name: The class's qualified name, to find its source when an annotation has lost its service.
        names: What the body could see.
    """
    found: dict[str, Any] = {}
    for slot, annotation in own.items():
        text = annotation if isinstance(annotation, str) else None
        if text is None and isinstance(annotation, type) and issubclass(annotation, providers.Provider):
            text = _annotation_texts(module, name).get(slot)
        if text is None:
            continue
        service = _service_text(text)
        if service is not None:
            evaluated = evaluate(service, names, {})
            found[slot] = service if evaluated is UNRESOLVED else evaluated
    return found


def _service_text(annotation: str) -> str | None:
    try:
        expression = ast.parse(annotation, mode="eval").body
    except SyntaxError:
        return None
    if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        return _service_text(expression.value)
    if isinstance(expression, ast.Subscript):
        return ast.unparse(expression.slice)
    return None


def promised_service(annotation: Any, *, module: str) -> Any:
    """Evaluate an annotation that was a forward reference when its class was made."""
    if isinstance(annotation, str):
        evaluated = evaluate(annotation, vars(sys.modules.get(module) or object), {})
        return None if evaluated is UNRESOLVED else evaluated
    return annotation


def service_of(provider: Provider) -> Any:
    """Tell what a provider makes, where its callable says so."""
    provider = effective(provider)
    if isinstance(provider, providers.Dependency):
        return None if provider.instance_of is object else provider.instance_of
    if isinstance(provider, CALLING) and not isinstance(provider, providers.TypedConfigurationOption):
        make: Any = provider.provides
        if make is None or providers.is_provider(make):
            return None
        return provided_type(make)
    if type(provider) is providers.Object and provider.provides is not None:
        return type(provider.provides)
    return None


def class_origins(cls: type[Any]) -> dict[str, Origin]:
    """
    Find the line of each slot in the body of ``cls``, and of the class under ``""``; empty without a source.
    """
    return _origins(cls.__module__, cls.__qualname__)


@functools.lru_cache(maxsize=256)
def _origins(module: str, name: str) -> dict[str, Origin]:
    file, body = _class_body(module, name)
    if body is None:
        return {}
    found = {"": Origin(file, body.lineno)}
    for statement in body.body:
        for target in _targets(statement):
            found[target] = Origin(file, statement.lineno)
    return found


def _targets(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return [statement.target.id]
    return []


@functools.lru_cache(maxsize=256)
def _annotation_texts(module: str, name: str) -> dict[str, str]:
    _file, body = _class_body(module, name)
    return {
        statement.target.id: ast.unparse(statement.annotation)
        for statement in (body.body if body is not None else ())
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


def _class_body(module: str, name: str) -> tuple[str, ast.ClassDef | None]:
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if file is None:
        return "", None
    tree = _tree(file)
    scope: Any = tree
    for part in name.split("."):
        if part == "<locals>" or scope is None:
            continue
        scope = next(
            (
                node
                for node in ast.walk(scope)
                if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == part
            ),
            None,
        )
    return inspect.getfile(loaded) if loaded else file, scope if isinstance(scope, ast.ClassDef) else None


@functools.lru_cache(maxsize=64)
def _tree(file: str) -> ast.AST | None:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return None
